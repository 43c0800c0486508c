"""The record in numbers. The databases count and rank; what comes back is a row a task type or agent, never one a task.

What ended in a time is found by the index of `finished_at`: it costs what ended then, not what is on record.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from nexus import moves, queries, watch
from nexus.engine import Tx
from nexus.figures import BROUGHT_TO_AN_END, Ended, Figures, Reading, Spread, Work
from nexus.predicates import is_due, is_held, is_waiting
from nexus.rows import Row
from nexus.sql import Moment, seconds_between
from nexus.states import AttemptOutcome, TaskStatus
from nexus.tables import attempts, stalls, tasks

OUTCOMES: Final = tuple(outcome for outcome in AttemptOutcome if outcome != AttemptOutcome.RUNNING)
PERCENTS: Final = {"p50": 50, "p95": 95, "p99": 99, "max": 100}
MARGIN: Final = timedelta(seconds=5)
"""What ended so lately is left to the next reading: its transaction may not be seen yet."""

_ran = seconds_between(attempts.c.started_at, attempts.c.finished_at)


def figures(tx: Tx, since: datetime | None, episode_id: str | None) -> Figures:
    """The board in numbers; attempts that ended since, of one episode or of all."""
    counted = queries.counts(tx, episode_id)
    [total] = _work(tx, sa.literal_column("''", sa.Text()), since, episode_id, None).values() or [Work()]
    going_on = moves.going_on().where(is_held()).subquery()  # in the words of the index
    return Figures(
        since=since,
        until=tx.present(),
        episode_id=episode_id,
        status={str(status): counted.get(status, 0) for status in TaskStatus},
        total=total.model_copy(update={"running": counted.get(TaskStatus.IN_PROGRESS, 0)}),
        by_type=_work(tx, tasks.c.task_type, since, episode_id, going_on),
        by_agent=_work(tx, attempts.c.agent_id, since, episode_id, going_on),
    )


def _work(
    tx: Tx, key: sa.ColumnElement[str], since: datetime | None, episode_id: str | None, going_on: sa.Subquery | None
) -> dict[str, Work]:
    """What came of the attempts, by a key of theirs."""
    found = {row.key: _row(row) for row in tx.plain(_summed(_ranked(key, since, episode_id)))}
    if going_on is not None:
        whose = going_on.c.agent_id if key is attempts.c.agent_id else key
        running = sa.select(whose.label("key"), sa.func.count().label("number")).join_from(
            going_on, tasks, tasks.c.task_id == going_on.c.task_id
        )
        if episode_id is not None:
            running = running.where(tasks.c.episode_id == episode_id)
        for row in tx.plain(running.group_by(whose)):
            found[row.key] = found.get(row.key, Work()).model_copy(update={"running": row.number})
    return dict(sorted(found.items()))


def _ranked(key: sa.ColumnElement[str], since: datetime | None, episode_id: str | None) -> sa.Subquery:
    """Every attempt that is over, with its rank by each duration among those of the same key that have one."""
    worked = attempts.c.outcome.in_(BROUGHT_TO_AN_END)
    columns: list[sa.ColumnElement[Any]] = [
        key.label("key"),
        attempts.c.outcome,
        sa.and_(
            attempts.c.outcome == AttemptOutcome.COMPLETED,
            tasks.c.status == TaskStatus.COMPLETED,
            attempts.c.number == tasks.c.attempt_count,
        ).label("is_done"),
    ]
    for name, seconds in (("wait", attempts.c.waited_seconds), ("run", sa.case((worked, _ran)))):
        columns += [
            seconds.label(name),
            sa.func.row_number().over(partition_by=key, order_by=seconds.nulls_last()).label(f"{name}_rank"),
            sa.func.count(seconds).over(partition_by=key).label(f"{name}_count"),
        ]
    statement = sa.select(*columns).join_from(attempts, tasks, tasks.c.task_id == attempts.c.task_id)
    if since is not None:
        statement = statement.where(attempts.c.finished_at >= sa.literal(since, Moment()))
    if episode_id is not None:
        statement = statement.where(tasks.c.episode_id == episode_id)
    return statement.subquery()


def _summed(ranked: sa.Subquery) -> sa.Select[Any]:
    columns: list[sa.ColumnElement[Any]] = [ranked.c.key, _number(ranked.c.is_done).label("done")]
    columns += [_number(ranked.c.outcome == outcome).label(str(outcome)) for outcome in OUTCOMES]
    for name in ("wait", "run"):
        seconds, rank, count = (ranked.c[f"{name}{part}"] for part in ("", "_rank", "_count"))
        columns.append(sa.func.count(seconds).label(f"{name}_count"))
        for percentile, percent in PERCENTS.items():
            reached = sa.and_(seconds.is_not(None), rank * 100 >= count * percent)
            columns.append(sa.func.min(sa.case((reached, seconds))).label(f"{name}_{percentile}"))
    return sa.select(*columns).group_by(ranked.c.key)


def _number(clause: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.sum(sa.case((clause, 1), else_=0))


def _row(row: Row) -> Work:
    found = row._mapping
    spreads = {
        name: Spread.model_validate({part: found[f"{name}_{part}"] for part in Spread.model_fields})
        for name in ("wait", "run")
    }
    return Work(done=found["done"], **{str(outcome): found[outcome] for outcome in OUTCOMES}, **spreads)


def reading(tx: Tx, after: datetime | None, bounds: Sequence[float]) -> Reading:
    """The present, and what ended after the last reading's `until`; None only says where to begin."""
    present = tx.present()
    until = max(present - MARGIN, after or present - MARGIN)
    sweep = watch.last_sweep(tx)
    return Reading(
        at=present,
        until=until,
        status=dict(queries.counts(tx)),
        oldest_waiting=_oldest_waiting(tx, present),
        ended=() if after is None else tuple(_ended(row) for row in tx.plain(_ended_between(after, until, bounds))),
        sweep_age_seconds=None if sweep is None else max(0.0, (present - sweep.finished_at).total_seconds()),
        open_stalls=int(tx.plain(_open_stalls()).scalar_one()),
    )


def _ended_between(after: datetime, until: datetime, bounds: Sequence[float]) -> sa.Select[Any]:
    """A row for each type and outcome; how many lie within each bound is counted in it."""
    waited = attempts.c.waited_seconds
    columns = [
        sa.func.count().label("attempts"),
        sa.func.count(waited).label("waits"),
        sa.func.coalesce(sa.func.sum(waited), 0.0).label("wait_seconds"),
        sa.func.sum(_ran).label("run_seconds"),
    ]
    for name, seconds in (("wait", waited), ("run", _ran)):
        columns += [
            _number(seconds <= sa.literal(bound, sa.Double())).label(f"{name}_{at}") for at, bound in enumerate(bounds)
        ]
    return (
        sa.select(tasks.c.task_type, attempts.c.outcome, *columns)
        .join_from(attempts, tasks, tasks.c.task_id == attempts.c.task_id)
        .where(
            attempts.c.finished_at > sa.literal(after, Moment()), attempts.c.finished_at <= sa.literal(until, Moment())
        )
        .group_by(tasks.c.task_type, attempts.c.outcome)
    )


def _ended(row: Row) -> Ended:
    found = dict(row._mapping)
    for name in ("wait", "run"):
        buckets = [column for column in found if column.startswith(f"{name}_") and column[-1].isdigit()]
        found[f"{name}_buckets"] = tuple(found.pop(column) for column in buckets)
    return Ended.model_validate(found)


def _oldest_waiting(tx: Tx, present: datetime) -> dict[str, float]:
    first = sa.select(tasks.c.task_type, sa.func.min(tasks.c.available_at).label("since"))
    rows = tx.run(first.where(is_waiting(), is_due()).group_by(tasks.c.task_type))
    return {row.task_type: (present - row.since).total_seconds() for row in rows}


def _open_stalls() -> sa.Select[Any]:
    return sa.select(sa.func.count()).select_from(stalls).where(stalls.c.closed_at.is_(None))
