"""What operators and reviewers decide: no claim is needed; whoever held the task finds its claim gone."""

from typing import Any

import sqlalchemy as sa

from nexus import records
from nexus.engine import Tx
from nexus.errors import IllegalTransition
from nexus.rows import Row
from nexus.sql import now
from nexus.states import AttemptOutcome, TaskStatus, Verb
from nexus.tables import tasks
from nexus.transitions.core import WAITING, ended, free_dependants, leave_traces, moved, one, refusal


def approve(tx: Tx, task_id: str, reviewer: str, note: str | None) -> Row:
    """The reviewer agrees: completed, dependants are freed."""
    row = _reviewed(tx, Verb.APPROVE, task_id, reviewer, {**ended(TaskStatus.COMPLETED), "reason": note}, note)
    if row.awaited:
        free_dependants(tx, [task_id])
    return row


def reject(tx: Tx, task_id: str, reviewer: str, note: str) -> Row:
    """The reviewer does not: pending again, and the note goes to the next attempt; the result stays with its own."""
    return _reviewed(tx, Verb.REJECT, task_id, reviewer, {**WAITING, "reason": note, "result": sa.null()}, note)


def _reviewed(tx: Tx, verb: Verb, task_id: str, reviewer: str, values: dict[str, Any], note: str | None) -> Row:
    somebody_else = sa.or_(tasks.c.claimed_by.is_(None), tasks.c.claimed_by != reviewer)
    row = tx.run(one(verb).where(somebody_else).values(values), p_task_id=task_id).one_or_none()
    if row is None:
        error = refusal(tx, verb, task_id)
        if isinstance(error, IllegalTransition) and error.status == TaskStatus.IN_REVIEW:
            why = f"{reviewer} did it; somebody else has to review it"
            raise IllegalTransition(task_id, verb, error.status, why=why)
        raise error
    leave_traces(tx, verb, [row], actor=reviewer, reason=note)
    return row


def _decided(
    tx: Tx,
    verb: Verb,
    task_id: str,
    values: dict[str, Any],
    actor: str | None,
    reason: str | None,
    ends: AttemptOutcome | None,
) -> Row:
    """A verb of operators: no claim needed; whoever held it finds its claim gone."""
    row = moved(tx, verb, one(verb).values(values), task_id)
    if ends is not None:
        records.close_attempts(tx, [row], ends, error=reason)
    leave_traces(tx, verb, [row], actor=actor, reason=reason)
    return row


def block(tx: Tx, task_id: str, reason: str, actor: str | None) -> Row:
    """Keep it from being worked on; a running attempt is taken back."""
    values = {**ended(TaskStatus.BLOCKED), "claimed_by": None, "reason": reason}
    return _decided(tx, Verb.BLOCK, task_id, values, actor, reason, AttemptOutcome.RELEASED)


def unblock(tx: Tx, task_id: str, actor: str | None) -> Row:
    """Offer it again."""
    return _decided(tx, Verb.UNBLOCK, task_id, {**WAITING, "reason": None}, actor, None, None)


def cancel(tx: Tx, task_id: str, reason: str | None, actor: str | None) -> Row:
    """End it; a running attempt learns it at its next heartbeat."""
    values = {**ended(TaskStatus.CANCELLED), "reason": reason}
    return _decided(tx, Verb.CANCEL, task_id, values, actor, reason, AttemptOutcome.CANCELLED)


def retry(tx: Tx, task_id: str, actor: str | None) -> Row:
    """Offer it again with a fresh budget; attempts and history stay."""
    values = {**WAITING, "failure_count": 0, "loss_count": 0, "reason": None, "available_at": now()}
    return _decided(tx, Verb.RETRY, task_id, values, actor, None, None)
