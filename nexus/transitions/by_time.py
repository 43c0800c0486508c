"""What time brings: leases end, waiting gets too long, deadlines pass. Asked for by the sweep.

An agent asks for none of it, but may say (`lose`) that its own lease could not be renewed.

Every statement looks once more at what the sweep saw before it: a heartbeat, a claim or another sweep that came
first wins.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from nexus import records
from nexus.engine import Tx
from nexus.predicates import Clause, is_expired, is_held, is_watched, status_in
from nexus.rows import Row
from nexus.sql import among, among_numbers, now
from nexus.states import AttemptOutcome, TaskStatus, Verb
from nexus.tables import stalls, tasks
from nexus.transitions.compound import Compound
from nexus.transitions.core import FREE, LATEST, ended, follow, guarded, leave_traces, left_of
from nexus.values import dump_json

SWEEP = "sweep"
"""Who the history says it was."""


def expire(tx: Tx, numbers: Sequence[int]) -> Sequence[Row]:
    """Take back tasks (by `seq`) whose lease is over: offered again, or dead letters when their losses are spent."""
    parameters = {
        "batch": dump_json(list(numbers)),
        "p_error": "the lease ended without a word",
        "p_why": "the lease ended",
    }
    return _lost(tx, _expire(), parameters)


def lose(tx: Tx, task_id: str, claim_no: int, reason: str, *, actor: str = SWEEP) -> bool:
    """Take back one claim, whatever its lease: its process is gone, or its holder says that it is lost.

    Whether it was: where the claim is no longer the current one, nothing was changed.
    """
    parameters = {"p_task_id": task_id, "p_claim_no": claim_no, "p_error": reason, "p_why": reason}
    return bool(_lost(tx, _lose(), parameters, actor))


def _lost(tx: Tx, compound: Compound, parameters: dict[str, Any], actor: str = SWEEP) -> Sequence[Row]:
    rows = compound.run(tx, {**parameters, "p_by": actor})
    follow(tx, Verb.EXPIRE, rows, actor)
    return rows


@cache
def _expire() -> Compound:
    why = sa.literal("Lost: the lease of ") + tasks.c.claimed_by + sa.literal(" ended without a word")
    return _with_attempts(_taken_back(sa.and_(among_numbers(tasks.c.seq, "batch"), is_expired()), why))


@cache
def _lose() -> Compound:
    current = sa.and_(
        tasks.c.task_id == sa.bindparam("p_task_id"), tasks.c.claim_no == sa.bindparam("p_claim_no"), is_held()
    )
    why = sa.literal("Lost: ") + sa.bindparam("p_error", type_=sa.Text())
    return _with_attempts(_taken_back(current, why))


def _taken_back(whose: Clause, error: sa.ColumnElement[str]) -> sa.Update:
    """Only an attempt that was begun counts as lost: a claim that never was costs the task nothing."""
    begun = status_in({TaskStatus.IN_PROGRESS})
    lost = sa.case((begun, 1), else_=0)
    spent = tasks.c.loss_count + lost >= tasks.c.retry_policy["max_losses"].as_integer()
    ends = sa.and_(begun, spent)
    return (
        guarded(Verb.EXPIRE)
        .where(whose)
        .values(
            **FREE,
            status=sa.case((ends, TaskStatus.FAILED.value), else_=TaskStatus.PENDING.value),
            pending_since=sa.case((ends, sa.null()), else_=now()),
            available_at=LATEST,
            claimed_by=sa.case((ends, tasks.c.claimed_by), else_=None),
            loss_count=tasks.c.loss_count + lost,
            error=sa.case((begun, error), else_=tasks.c.error),
        )
    )


def _with_attempts(move: sa.Update) -> Compound:
    def beside(moved: sa.FromClause) -> list[sa.Insert]:
        said, why, by = (sa.bindparam(name, type_=sa.Text()) for name in ("p_error", "p_why", "p_by"))
        told = records.told_of(moved, Verb.EXPIRE, by, why)
        return [records.tried(moved, AttemptOutcome.LOST, error=said), told]

    return Compound(Verb.EXPIRE, move, beside, left_of)


def watch(tx: Tx, numbers: Sequence[int], still: Clause) -> list[Row]:
    """Point tasks (by `seq`) that `still` wait too long at the stalls that were opened for them. No move."""
    stall = (
        sa.select(stalls.c.stall_id)
        .where(
            stalls.c.task_id == tasks.c.task_id,
            stalls.c.kind == "waiting",
            stalls.c.since == tasks.c.available_at,
        )
        .scalar_subquery()
    )
    statement = (
        sa.update(tasks)
        .where(among_numbers(tasks.c.seq, "batch"), still, tasks.c.stall_id.is_(None))
        .values(stall_id=stall)
        .returning(tasks.c.task_id, tasks.c.stall_id)
    )
    return list(tx.run(statement, batch=dump_json(list(numbers))))


def mark_overdue(tx: Tx, numbers: Sequence[int]) -> list[Row]:
    """Point tasks (by `seq`) whose deadline has passed at the stalls that were opened for those. No move."""
    stall = (
        sa.select(stalls.c.stall_id)
        .where(stalls.c.task_id == tasks.c.task_id, stalls.c.kind == "deadline", stalls.c.since == tasks.c.deadline)
        .scalar_subquery()
    )
    statement = (
        sa.update(tasks)
        .where(among_numbers(tasks.c.seq, "batch"), tasks.c.deadline <= now(), tasks.c.overdue_id.is_(None))
        .values(overdue_id=stall)
        .returning(tasks.c.task_id, tasks.c.overdue_id)
    )
    return list(tx.run(statement, batch=dump_json(list(numbers))))


def stall(tx: Tx, stall_ids: Sequence[int], reason: str) -> list[Row]:
    """Take the tasks of these stalls off the offer. The stall goes on: nobody has moved the task but the sweep."""
    values = {**ended(TaskStatus.STALLED), "reason": reason, "stall_id": tasks.c.stall_id}
    rows = tx.run(
        guarded(Verb.STALL).where(is_watched("waiting")).values(values).returning(*tasks.c),
        stalls=dump_json(list(stall_ids)),
    ).all()
    leave_traces(tx, Verb.STALL, rows, actor=SWEEP, reason=reason)
    return list(rows)


def abandon(tx: Tx, stall_ids: Sequence[int], reason: str) -> list[Row]:
    """Make dead letters of the tasks of these stalls: nobody came."""
    values = {**ended(TaskStatus.FAILED), "error": f"Abandoned: {reason}"}
    rows = tx.run(
        guarded(Verb.ABANDON).where(is_watched("waiting")).values(values).returning(*tasks.c),
        stalls=dump_json(list(stall_ids)),
    ).all()
    leave_traces(tx, Verb.ABANDON, rows, actor=SWEEP, reason=reason)
    return list(rows)


def reassign(tx: Tx, chosen: Mapping[str, str | None], stall_ids: Sequence[int], reason: str) -> list[Row]:
    """Give tasks of these stalls to the agents `chosen` for them; None: to whoever comes.

    No move: they stay pending, and their waiting goes on. One statement an agent.
    """
    rows: list[Row] = []
    for agent_id in dict.fromkeys(chosen.values()):
        batch = [task_id for task_id, name in chosen.items() if name == agent_id]
        statement = (
            sa.update(tasks)
            .where(among(tasks.c.task_id, "batch"), status_in({TaskStatus.PENDING}), is_watched("waiting"))
            .values(previous_status=tasks.c.status, assigned_to=agent_id, updated_at=now())
            .returning(*tasks.c)
        )
        rows += tx.run(statement, batch=dump_json(batch), stalls=dump_json(list(stall_ids)))
    records.write_history(tx, "reassign", rows, actor=SWEEP, reason=reason)
    return rows
