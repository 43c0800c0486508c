"""The life of a claim: taken, begun, renewed, ended by its holder."""

from functools import cache
from typing import Any

import sqlalchemy as sa

from nexus import records
from nexus.engine import Tx
from nexus.predicates import Claimant, is_claimable_by, status_in, wanted
from nexus.records import Row
from nexus.retry import RetryDecision
from nexus.schemas import Claim
from nexus.sql import later, now
from nexus.states import HELD, AttemptOutcome, TaskStatus, Verb
from nexus.tables import tasks
from nexus.transitions.core import FREE, WAITING, ended, fenced, free_dependants, guarded, leave_traces, moved
from nexus.values import dump_json


@cache
def _claim(*, handles: bool, **wishes: bool) -> sa.Update:
    picked = (
        sa.select(tasks.c.seq)
        .where(is_claimable_by(Claimant.bound(handles=handles)), *wanted(**wishes))
        .order_by(tasks.c.priority, tasks.c.available_at, tasks.c.seq)
        .limit(sa.bindparam("limit", type_=sa.Integer()))
        # Who wants just one task waits for its lock, which may be held by somebody who only depends on it.
        .with_for_update(skip_locked=not wishes["task_id"])
        .cte("picked")
    )
    return (
        guarded(Verb.CLAIM)
        .where(tasks.c.seq.in_(sa.select(picked.c.seq)))
        .values(
            status=TaskStatus.CLAIMED.value,
            pending_since=None,
            claim_no=tasks.c.claim_no + 1,
            claimed_by=sa.bindparam("agent_id", type_=sa.Text()),
            lease_seconds=sa.bindparam("p_lease", type_=sa.Double()),
            lease_expires_at=later(now(), sa.bindparam("p_lease", type_=sa.Double())),
        )
    )


def claim(
    tx: Tx,
    agent: Row,
    limit: int,
    lease_seconds: float,
    wishes: dict[str, Any],
) -> list[Row]:
    """Take up to `limit` claimable tasks, first by priority, then by how long they wait.

    `wishes` are values for the names of `predicates.wanted`; None is no wish. Rows that another claim has
    locked are skipped, so claims do not wait for one another; only the claim of one certain task waits.
    """
    flags = {name: value is not None for name, value in wishes.items()}
    bound = {f"p_{name}": value for name, value in wishes.items() if value is not None}
    flags["episode"] = flags.pop("episode_id")
    # Whoever asks for certain types has handlers for those, whatever was said before.
    handles = agent.task_types is not None and wishes["task_types"] is None
    if handles:
        bound["handled"] = dump_json(list(agent.task_types))
    rows = tx.run(
        _claim(handles=handles, **flags),
        agent_id=agent.agent_id,
        capabilities=dump_json(list(agent.capabilities)),
        limit=limit,
        p_lease=lease_seconds,
        **bound,
    ).all()
    leave_traces(tx, Verb.CLAIM, rows, actor=agent.agent_id)
    return sorted(rows, key=lambda row: (row.priority, row.available_at, row.seq))


@cache
def _start() -> sa.Update:
    return fenced(Verb.START).values(
        status=TaskStatus.IN_PROGRESS.value,
        attempt_count=tasks.c.attempt_count + 1,
        lease_expires_at=later(now(), tasks.c.lease_seconds),
    )


def start(tx: Tx, held: Claim, run_ref: Any) -> tuple[Row, Row]:
    """Begin the attempt; the task's row and the attempt's."""
    row = moved(tx, Verb.START, _start(), held)
    attempt = records.open_attempt(tx, row, held.agent_id, run_ref)
    leave_traces(tx, Verb.START, [row], actor=held.agent_id)
    return row, attempt


@cache
def _heartbeat() -> sa.Update:
    """No move: the claim stays where it is and holds longer."""
    held_by_claim = sa.and_(
        status_in(HELD),
        tasks.c.task_id == sa.bindparam("p_task_id"),
        tasks.c.claim_no == sa.bindparam("p_claim_no"),
    )
    lease: sa.ColumnElement[float] = sa.func.coalesce(sa.bindparam("p_lease", type_=sa.Double()), tasks.c.lease_seconds)
    return (
        sa.update(tasks)
        .where(held_by_claim)
        .values(lease_seconds=lease, lease_expires_at=later(now(), lease))
        .returning(tasks.c.lease_expires_at)
    )


def heartbeat(tx: Tx, held: Claim, note: str | None, lease_seconds: float | None) -> Row | None:
    """Extend the lease; the row with its new end, or None where the claim is no longer current."""
    row = tx.run(_heartbeat(), p_task_id=held.task_id, p_claim_no=held.claim_no, p_lease=lease_seconds).one_or_none()
    if row is not None:
        records.beat(tx, held.task_id, held.claim_no, note)
    return row


@cache
def _complete() -> sa.Update:
    return fenced(Verb.COMPLETE).values(
        **FREE,
        status=sa.case((tasks.c.requires_review, TaskStatus.IN_REVIEW.value), else_=TaskStatus.COMPLETED.value),
        result=sa.bindparam("p_result", type_=tasks.c.result.type),
        error=None,
        reason=None,
    )


def complete(tx: Tx, held: Claim, result: Any) -> Row:
    """Close the attempt with its result; the task is completed, or in review where it asks for one."""
    row = moved(tx, Verb.COMPLETE, _complete(), held, p_result=result)
    records.close_attempts(tx, [row.task_id], AttemptOutcome.COMPLETED, result=result)
    leave_traces(tx, Verb.COMPLETE, [row], actor=held.agent_id)
    if row.status == TaskStatus.COMPLETED:
        free_dependants(tx, [row.task_id])
    return row


def fail(tx: Tx, held: Claim, decision: RetryDecision, error: str, *, timed_out: bool, actor: str | None = None) -> Row:
    """Close the attempt with its error; the task is offered again later, or is a dead letter.

    `actor` is who says so, where that is not the holder.
    """
    counted = fenced(Verb.FAIL).values(failure_count=tasks.c.failure_count + 1, error=error)
    if decision.again:
        statement = counted.values(
            {**WAITING, "available_at": later(now(), sa.literal(decision.delay_seconds, sa.Double()))}
        )
    else:
        statement = counted.values(ended(TaskStatus.FAILED))
    row = moved(tx, Verb.FAIL, statement, held)
    records.close_attempts(
        tx, [row.task_id], AttemptOutcome.TIMED_OUT if timed_out else AttemptOutcome.FAILED, error=error
    )
    leave_traces(tx, Verb.FAIL, [row], actor=actor or held.agent_id, reason=f"{decision.why}: {error}")
    return row


def release(tx: Tx, held: Claim, reason: str | None) -> Row:
    """Hand the task back; it is offered at once and no failure is counted."""
    # A reviewer's note stays: it is for the next attempt that gets to work.
    kept = sa.func.coalesce(tasks.c.reason, sa.bindparam("p_reason", type_=sa.Text()))
    row = moved(tx, Verb.RELEASE, fenced(Verb.RELEASE).values({**WAITING, "reason": kept}), held, p_reason=reason)
    records.close_attempts(tx, [row.task_id], AttemptOutcome.RELEASED, error=reason)
    leave_traces(tx, Verb.RELEASE, [row], actor=held.agent_id, reason=reason)
    return row
