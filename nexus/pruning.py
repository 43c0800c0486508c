"""Forgetting what is finished: the reads and the deletes of pruning, a bite at a time.

A bite looks at a bounded number of tasks that ended alike, newest first, and deletes those that nothing needs any
more, with all that hangs on them. It is a transaction of its own, so nobody waits for longer than a bite. It locks
finished tasks only, leaves alone what somebody else has locked (PostgreSQL), and so never meets a claim.

Newest first, because dependants end after what they depend on: a chain of cancelled tasks goes in one run.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from nexus.engine import Tx
from nexus.predicates import Clause, status_in
from nexus.retention import ORDER, Mark, Retention, boundary, unneeded
from nexus.rows import Row
from nexus.sql import Moment, among, among_numbers
from nexus.states import TERMINAL, TaskStatus
from nexus.tables import attempts, dependencies, history, stalls, sweeps, tasks
from nexus.values import dump_json


@dataclass(frozen=True, slots=True)
class Bite:
    """What one bite found, and what it took."""

    looked: int
    gone: tuple[str, ...]
    """The ids of the tasks that were deleted."""
    attempts: int
    history: int
    stalls: int
    below: Mark | None
    """Where the next bite begins; None where nothing is left."""


def marks(tx: Tx, retention: Retention, present: datetime) -> dict[TaskStatus, Mark]:
    """Before which mark the tasks of each status go, dependants first; a status that keeps all is absent."""
    found = {}
    for status in ORDER:
        bounds = retention.of(status)
        surplus = None if bounds.keep is None else _surplus(tx, status, bounds.keep)
        mark = boundary(present, bounds, retention.grace_seconds, surplus)
        if mark is not None:
            found[status] = mark
    return found


def _surplus(tx: Tx, status: TaskStatus, keep: int) -> Mark | None:
    """Behind the newest task that is one too many."""
    row = tx.plain(_ended(status, tasks.c.seq, tasks.c.updated_at).offset(keep).limit(1)).one_or_none()
    return None if row is None else (row.updated_at, row.seq + 1)


def _is_ended(status: TaskStatus) -> Clause:
    """With the words of the partial indexes, by which both databases find it."""
    given_up = TERMINAL - {TaskStatus.COMPLETED}
    return sa.and_(status_in({status}), status_in(given_up) if status in given_up else sa.true())


def _is_before() -> Clause:
    mark = sa.tuple_(sa.bindparam("at", type_=Moment()), sa.bindparam("seq", type_=sa.BigInteger()))
    return sa.tuple_(tasks.c.updated_at, tasks.c.seq) < mark


def _ended(status: TaskStatus, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Tasks that ended so, newest first."""
    order = (tasks.c.updated_at.desc(), tasks.c.seq.desc())
    return sa.select(*columns).where(_is_ended(status)).order_by(*order)


def count(tx: Tx, ahead: dict[TaskStatus, Mark]) -> int:
    """How many tasks lie before their marks."""
    found = 0
    for status, (at, seq) in ahead.items():
        statement = sa.select(sa.func.count()).select_from(tasks).where(_is_ended(status), _is_before())
        found += tx.plain(statement, {"at": at, "seq": seq}).scalar_one()
    return found


def bite(tx: Tx, status: TaskStatus, below: Mark, limit: int) -> Bite:
    """Delete what nothing needs among the newest `limit` tasks before a mark."""
    rows = _look(tx, _candidates(status).with_for_update(skip_locked=True), below, limit)
    # Asked only now, under the locks: whoever adds a dependency locks its target first (`queries.hold_still`).
    free = _free(tx, rows, frozenset())
    if not free:
        return Bite(len(rows), (), 0, 0, 0, _next(rows, limit))
    names = {"batch": dump_json([row.task_id for row in free])}
    closed = list(tx.plain(sa.delete(stalls).where(_of(stalls)).returning(stalls.c.stall_id), names).scalars())
    if closed:
        # SQLite gives the number of a deleted stall to the next one, which would count as escalated already.
        asked = among_numbers(tasks.c.escalates, "stalls")
        tx.plain(sa.update(tasks).where(asked).values(escalates=None), {"stalls": dump_json(closed)})
    tried = tx.plain(sa.delete(attempts).where(_of(attempts)), names).rowcount
    moved = tx.plain(sa.delete(history).where(_of(history)), names).rowcount
    numbers = {"numbers": dump_json([row.seq for row in free])}
    tx.plain(sa.delete(tasks).where(among_numbers(tasks.c.seq, "numbers")), numbers)
    gone = tuple(row.task_id for row in free)
    return Bite(len(rows), gone, tried, moved, len(closed), _next(rows, limit))


def foresee(tx: Tx, status: TaskStatus, below: Mark, limit: int, gone: AbstractSet[str]) -> Bite:
    """What `bite` would do where the tasks in `gone` were deleted; it locks nothing."""
    rows = _look(tx, _candidates(status), below, limit)
    free = tuple(row.task_id for row in _free(tx, rows, gone))
    tried, moved, closed = (_count(tx, table, free) for table in (attempts, history, stalls))
    return Bite(len(rows), free, tried, moved, closed, _next(rows, limit))


def _candidates(status: TaskStatus) -> sa.Select[Any]:
    columns = (tasks.c.seq, tasks.c.task_id, tasks.c.updated_at)
    return _ended(status, *columns).where(_is_before()).limit(sa.bindparam("size", type_=sa.Integer()))


def _look(tx: Tx, statement: sa.Select[Any], below: Mark, limit: int) -> list[Row]:
    at, seq = below
    return list(tx.plain(statement, {"at": at, "seq": seq, "size": limit}))


def _next(rows: Sequence[Row], limit: int) -> Mark | None:
    return (rows[-1].updated_at, rows[-1].seq) if len(rows) == limit else None


def _of(table: sa.Table) -> Clause:
    return among(table.c.task_id, "batch")


def _count(tx: Tx, table: sa.Table, task_ids: Sequence[str]) -> int:
    statement = sa.select(sa.func.count()).select_from(table).where(_of(table))
    return int(tx.plain(statement, {"batch": dump_json(list(task_ids))}).scalar_one())


def _free(tx: Tx, rows: Sequence[Row], gone: AbstractSet[str]) -> list[Row]:
    """Those of `rows` that nothing needs which stays."""
    if not rows:
        return []
    names = {"batch": dump_json([row.task_id for row in rows])}
    needs = [(row.task_id, row.by) for statement in _NEEDED for row in tx.plain(statement, names)]
    free = unneeded([row.task_id for row in rows], needs, gone)
    return [row for row in rows if row.task_id in free]


_other = tasks.alias("other")
_IS_OPEN: Clause = _other.c.status.not_in([sa.literal_column(f"'{status}'") for status in ORDER[::-1]])
"""Not done yet. `_NEEDED` asks in the order that the partial indexes are written in."""


def _depended_upon() -> sa.Select[Any]:
    """By a task that may run yet: also a dead letter may, and then it reads the results of these."""
    return (
        sa.select(dependencies.c.depends_on.label("task_id"), dependencies.c.task_id.label("by"))
        .join(_other, _other.c.task_id == dependencies.c.task_id)
        .where(among(dependencies.c.depends_on, "batch"), _other.c.status != TaskStatus.COMPLETED.value)
    )


def _related() -> sa.Select[Any]:
    """What a task is about that is not done."""
    about = among(_other.c.related_task_id, "batch")
    named = _other.c.related_task_id.is_not(None)
    return sa.select(_other.c.related_task_id.label("task_id"), _other.c.task_id.label("by")).where(
        about, named, _IS_OPEN
    )


def _stalled() -> sa.Select[Any]:
    """An open stall is there of it: a promise is broken, and `nexus doctor` shall find it."""
    return sa.select(stalls.c.task_id, sa.null().label("by")).where(_of(stalls), stalls.c.closed_at.is_(None))


def _asked_about() -> sa.Select[Any]:
    """An escalation asks about it that is not done."""
    return (
        sa.select(stalls.c.task_id, _other.c.task_id.label("by"))
        .join(_other, _other.c.escalates == stalls.c.stall_id)
        .where(_of(stalls), _other.c.escalates.is_not(None), _IS_OPEN)
    )


def _asking() -> sa.Select[Any]:
    """It was made for a stall that is still open."""
    return (
        sa.select(tasks.c.task_id, sa.null().label("by"))
        .join(stalls, stalls.c.stall_id == tasks.c.escalates)
        .where(among(tasks.c.task_id, "batch"), stalls.c.closed_at.is_(None))
    )


_NEEDED = (_depended_upon(), _related(), _stalled(), _asked_about(), _asking())
"""Each gives the task that must stay, and the task for whose sake (NULL: for good)."""


def old_sweeps() -> sa.Select[Any]:
    """Old passes, but never the last one: by that everybody sees whether somebody sweeps."""
    last = sa.select(sa.func.max(sweeps.c.sweep_id)).scalar_subquery()
    old = sweeps.c.finished_at <= sa.bindparam("before", type_=Moment())
    return sa.select(sweeps.c.sweep_id).where(old, sweeps.c.sweep_id < last)


def old_confirmations() -> sa.Select[Any]:
    """Old history of agents, which belongs to no task."""
    old = history.c.at <= sa.bindparam("before", type_=Moment())
    return sa.select(history.c.seq).where(history.c.task_id.is_(None), old)


def forget(tx: Tx, old: sa.Select[Any], before: datetime, limit: int) -> int:
    """Delete at most so many rows, by their number, that nothing depends on."""
    [number] = old.selected_columns
    statement = sa.delete(number.table).where(number.in_(old.limit(limit)))
    return tx.plain(statement, {"before": before}).rowcount


def count_old(tx: Tx, old: sa.Select[Any], before: datetime) -> int:
    """How many `forget` would delete."""
    statement = sa.select(sa.func.count()).select_from(old.subquery())
    return int(tx.plain(statement, {"before": before}).scalar_one())
