"""Every SELECT of the sweep, and of what it leaves on record.

What looks for candidates reads and locks plain columns only: a row that somebody spoilt by hand (a list that is no
JSON, a time that is none) is found like any other, and fails alone where it is read whole.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from nexus.engine import Tx
from nexus.monitoring import ACTIONS, TaskMonitoringConfig
from nexus.predicates import (
    Clause,
    is_expired,
    is_held,
    is_offered,
    policy_number,
    status_in,
    threshold_seconds,
    waits_longer_than,
)
from nexus.reports import Pause, Stall, StallStep, Sweep
from nexus.rows import Row
from nexus.sql import among, among_numbers, later, now
from nexus.states import AttemptOutcome, TaskStatus
from nexus.tables import attempts, pauses, stall_steps, stalls, sweeps, tasks
from nexus.values import dump_json

_NOT_ENDED: Clause = tasks.c.status.not_in(
    [sa.literal_column(f"'{status}'") for status in (TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED)]
)
"""In the words of the partial indexes, by which both databases find them."""


_AS_HELD = (tasks.c.claimed_by, tasks.c.lease_expires_at)
"""The order of the index of what is held: any will do, and this one need not be sorted."""


def _numbers(tx: Tx, *clauses: Clause, order: Sequence[sa.ColumnElement[Any]], limit: int) -> list[int]:
    """The `seq` of tasks, locked until the transaction ends; what another sweep works on right now is left to it."""
    statement = sa.select(tasks.c.seq).where(*clauses).order_by(*order).limit(limit).with_for_update(skip_locked=True)
    return list(tx.run(statement).scalars())


def expired(tx: Tx, limit: int) -> list[int]:
    """Held under a lease that is over."""
    return _numbers(tx, is_expired(), order=_AS_HELD, limit=limit)


def hung(tx: Tx, limit: int) -> list[int]:
    """In progress for longer than the task's timeout and a lease: alive, since it renews, but it does not end.

    An agent that watches its own timeout has had the length of the lease to say so.
    """
    allowed = tasks.c.timeout_seconds + sa.func.coalesce(tasks.c.lease_seconds, 0.0)
    overtime = sa.and_(tasks.c.timeout_seconds.is_not(None), later(tasks.c.started_at, allowed) <= now())
    clauses = (is_held(), status_in({TaskStatus.IN_PROGRESS}), overtime)
    return _numbers(tx, *clauses, order=_AS_HELD, limit=limit)


def still_waits_too_long(config: TaskMonitoringConfig, learnt: Mapping[str, float]) -> Clause:
    """Claimable for longer than its threshold, and offered."""
    return sa.and_(waits_longer_than(threshold_seconds(config, learnt)), tasks.c.stall_id.is_(None))


def unwatched(tx: Tx, config: TaskMonitoringConfig, learnt: Mapping[str, float], limit: int) -> list[int]:
    """Waiting too long, without a stall. The shortest threshold first, because that one an index can find."""
    own = [policy.pending_timeout_seconds for policy in config.policies if policy.pending_timeout_seconds]
    shortest = min([config.pending_timeout_seconds, *own, *learnt.values()])
    recent = tasks.c.available_at <= later(now(), sa.literal(-shortest, sa.Double()))
    return _numbers(tx, recent, still_waits_too_long(config, learnt), order=[tasks.c.available_at], limit=limit)


def steps_due(tx: Tx, limit: int) -> list[int]:
    """The ids of open stalls on which a step of the ladder is due; their tasks are locked."""
    statement = (
        sa.select(stalls.c.stall_id)
        .join(tasks, sa.and_(tasks.c.task_id == stalls.c.task_id, tasks.c.stall_id == stalls.c.stall_id))
        .where(stalls.c.closed_at.is_(None), stalls.c.next_step_at <= now(), is_offered())
        .order_by(stalls.c.next_step_at)
        .limit(limit)
        .with_for_update(skip_locked=True, of=tasks)
    )
    return list(tx.run(statement).scalars())


def past_deadline(tx: Tx, limit: int) -> list[int]:
    """Open, and past a deadline that was not noticed yet."""
    clauses = (tasks.c.deadline <= now(), tasks.c.deadline.is_not(None), tasks.c.overdue_id.is_(None), _NOT_ENDED)
    return _numbers(tx, *clauses, order=[tasks.c.deadline], limit=limit)


def pointless(tx: Tx, limit: int) -> list[Row]:
    """Escalations that are open, and held by nobody, of stalls that are closed: task id, stall id."""
    statement = (
        sa.select(tasks.c.task_id, tasks.c.escalates.label("stall_id"))
        .join(stalls, stalls.c.stall_id == tasks.c.escalates)
        .where(tasks.c.escalates.is_not(None), _NOT_ENDED, ~is_held(), stalls.c.closed_at.is_not(None))
        .order_by(tasks.c.escalates)
        .limit(limit)
        .with_for_update(skip_locked=True, of=tasks)
    )
    return list(tx.plain(statement))


def by_number(tx: Tx, numbers: Sequence[int]) -> list[Row]:
    """Whole rows, in order of arrival. (Sorted here: asked for an order, SQLite would read the whole table in it.)"""
    statement = sa.select(tasks).where(among_numbers(tasks.c.seq, "batch"))
    return sorted(tx.plain(statement, {"batch": dump_json(list(numbers))}), key=lambda row: row.seq)


def ids_of(tx: Tx, numbers: Sequence[int]) -> dict[int, str]:
    """Task ids by `seq`."""
    statement = sa.select(tasks.c.seq, tasks.c.task_id).where(among_numbers(tasks.c.seq, "batch"))
    return {row.seq: row.task_id for row in tx.plain(statement, {"batch": dump_json(list(numbers))})}


def task_of_stall(tx: Tx, stall_id: int) -> str:
    """The id of a stall's task."""
    return str(tx.plain(sa.select(stalls.c.task_id).where(stalls.c.stall_id == stall_id)).scalar_one())


def watched(tx: Tx, stall_ids: Sequence[int], config: TaskMonitoringConfig) -> list[Row]:
    """Whole rows of tasks with their stall's `opened_at`, its `why`, and `policy_no`, the number of their policy."""
    statement = (
        sa.select(tasks, stalls.c.opened_at, stalls.c.why, policy_number(config.ladders).label("policy_no"))
        .join(stalls, sa.and_(stalls.c.task_id == tasks.c.task_id, stalls.c.stall_id == tasks.c.stall_id))
        .where(among_numbers(stalls.c.stall_id, "batch"))
    )
    return sorted(tx.plain(statement, {"batch": dump_json(list(stall_ids))}), key=lambda row: row.seq)


def steps_taken(tx: Tx, stall_ids: Sequence[int]) -> dict[int, set[str]]:
    """The steps that were done, by stall."""
    statement = sa.select(stall_steps.c.stall_id, stall_steps.c.step).where(
        among_numbers(stall_steps.c.stall_id, "batch")
    )
    taken: dict[int, set[str]] = {stall_id: set() for stall_id in stall_ids}
    for row in tx.plain(statement, {"batch": dump_json(list(stall_ids))}):
        taken[row.stall_id].add(row.step)
    return taken


def losers(tx: Tx, task_ids: Sequence[str]) -> dict[str, set[str]]:
    """Who has lost an attempt at each of these tasks."""
    statement = sa.select(attempts.c.task_id, attempts.c.agent_id).where(
        among(attempts.c.task_id, "batch"), attempts.c.outcome == AttemptOutcome.LOST.value
    )
    found: dict[str, set[str]] = {}
    for row in tx.plain(statement, {"batch": dump_json(list(task_ids))}):
        found.setdefault(row.task_id, set()).add(row.agent_id)
    return found


# -- what is on record ------------------------------------------------------------------------------------------


def list_stalls(
    tx: Tx, *, task_id: str | None = None, open_only: bool = False, limit: int | None = None
) -> list[Stall]:
    """Stalls with their steps; of one task, or of the board; the newest last."""
    statement = sa.select(stalls).order_by(stalls.c.stall_id)
    if task_id is not None:
        statement = statement.where(stalls.c.task_id == task_id)
    if open_only:
        statement = statement.where(stalls.c.closed_at.is_(None))
    if limit is not None:
        statement = statement.limit(limit)
    rows = list(tx.plain(statement))
    ids = dump_json([row.stall_id for row in rows])
    steps: dict[int, list[StallStep]] = {}
    taken = sa.select(stall_steps).where(among_numbers(stall_steps.c.stall_id, "batch")).order_by(stall_steps.c.at)
    for row in tx.plain(taken, {"batch": ids}) if rows else ():
        step = StallStep(step=row.step, at=row.at, detail=row.detail, told_at=row.told_at)
        steps.setdefault(row.stall_id, []).append(step)
    order = list(ACTIONS)
    return [
        Stall.model_validate(
            dict(row._mapping)
            | {"steps": tuple(sorted(steps.get(row.stall_id, ()), key=lambda step: order.index(step.step)))}
        )
        for row in rows
    ]


def list_sweeps(tx: Tx, limit: int) -> list[Sweep]:
    """The latest passes, newest first."""
    statement = sa.select(sweeps).order_by(sweeps.c.sweep_id.desc()).limit(limit)
    return [Sweep.model_validate(dict(row._mapping)) for row in tx.plain(statement)]


def last_sweep(tx: Tx) -> Sweep | None:
    """The latest pass on record."""
    return next(iter(list_sweeps(tx, 1)), None)


def last_seen_at_work(tx: Tx) -> datetime | None:
    """When somebody last swept; where nobody ever did, when there was first something to look after."""
    last = tx.plain(sa.select(sweeps.c.finished_at).order_by(sweeps.c.sweep_id.desc()).limit(1)).scalar()
    if last is None:
        last = tx.plain(sa.select(tasks.c.created_at).order_by(tasks.c.seq).limit(1)).scalar()
    return last


def overdue_leases(tx: Tx, seconds: float) -> int:
    """How many leases ended longer ago than that."""
    ago = later(now(), sa.literal(-seconds, sa.Double()))
    return int(
        tx.run(
            sa.select(sa.func.count()).select_from(tasks).where(is_held(), tasks.c.lease_expires_at < ago)
        ).scalar_one()
    )


def list_pauses(tx: Tx) -> list[Pause]:
    """What is paused."""
    statement = sa.select(pauses).order_by(pauses.c.task_type)
    return [Pause.model_validate(dict(row._mapping)) for row in tx.plain(statement)]
