"""Every INSERT and UPDATE that is about waiting: stalls and the steps taken on them, passes of the sweep, pauses."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from nexus import bulk
from nexus.commits import row_of
from nexus.engine import Tx
from nexus.predicates import EVERY_TYPE
from nexus.sql import Moment, among, among_numbers, now
from nexus.states import TaskStatus
from nexus.tables import pauses, stall_steps, stalls, sweeps, tasks
from nexus.values import dump_json


def open_stalls(tx: Tx, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Stalls for these waiting periods or deadlines; their ids by task.

    One that is there already is opened again: it is the same period, and its steps stay done.
    """
    return {row.task_id: row.stall_id for row in bulk.insert(tx, stalls, rows, finish=_new_or_again)}


def _new_or_again(new: Any) -> sa.Insert:
    again = {"closed_at": sa.null(), "closed_by": sa.null(), "next_step_at": new.excluded.next_step_at}
    statement: sa.Insert = new.on_conflict_do_update(index_elements=["task_id", "kind", "since"], set_=again)
    return statement.returning(stalls.c.task_id, stalls.c.stall_id)


def close_stalls(tx: Tx, stall_ids: Sequence[int], verb: str) -> None:
    """The tasks of these stalls have moved on."""
    if not stall_ids:
        return
    latest = sa.case((stalls.c.opened_at > now(), stalls.c.opened_at), else_=now())
    statement = sa.update(stalls).where(among_numbers(stalls.c.stall_id, "batch"), stalls.c.closed_at.is_(None))
    tx.run(statement.values(closed_at=latest, closed_by=str(verb), next_step_at=None), batch=dump_json(list(stall_ids)))


def take_step(tx: Tx, step: str, at: datetime, details: Mapping[int, str]) -> set[int]:
    """Record a step on each stall (id to detail); the ids of those on which it was not done before."""
    if not details:
        return set()
    rows = [{"stall_id": stall_id, "step": step, "at": at, "detail": detail} for stall_id, detail in details.items()]
    taken = {row.stall_id for row in bulk.insert(tx, stall_steps, rows, finish=_new_steps)}
    if taken:
        tx.leaves(row_of(stall_steps, stall_id=min(taken), step=step, at=at))
    return taken


def _new_steps(statement: Any) -> sa.Insert:
    new: sa.Insert = statement.on_conflict_do_nothing()
    return new.returning(stall_steps.c.stall_id)


def reckon_again(tx: Tx, settings_hash: str) -> None:
    """Let the next step of every open stall be reckoned anew that was reckoned with other policies."""
    # Two ranges, not <>: those an index can find.
    other = sa.or_(stalls.c.settings_hash < settings_hash, stalls.c.settings_hash > settings_hash)
    statement = sa.update(stalls).where(stalls.c.closed_at.is_(None), stalls.c.kind == "waiting", other)
    tx.run(statement.values(next_step_at=now(), settings_hash=settings_hash))


def set_next_step(tx: Tx, stall_ids: Sequence[int], policy: str, at: datetime | None) -> None:
    """Which policy these stalls follow, and when the next step is due: never, where a step has moved the task."""
    ahead = sa.case((stalls.c.closed_at.is_(None), sa.literal(at, Moment())), else_=sa.null())
    statement = sa.update(stalls).where(among_numbers(stalls.c.stall_id, "batch"))
    tx.plain(statement.values(policy=policy, next_step_at=ahead), {"batch": dump_json(list(stall_ids))})


def deliver(tx: Tx, stall_ids: Sequence[int]) -> None:
    """The notices of these stalls were delivered."""
    mine = sa.and_(among_numbers(stall_steps.c.stall_id, "batch"), stall_steps.c.step == "notify")
    tx.run(sa.update(stall_steps).where(mine).values(told_at=now()), batch=dump_json(list(stall_ids)))


SWEEPS_KEPT: Final = 10_000
"""Sweeps on record; with one every 5 s, half a day."""


def write_sweep(tx: Tx, values: Mapping[str, Any]) -> None:
    """One pass on record; the oldest go."""
    number = tx.plain(sa.insert(sweeps).values(**values).returning(sweeps.c.sweep_id)).scalar_one()
    tx.leaves(row_of(sweeps, sweep_id=number, started_at=values["started_at"]))
    tx.plain(sa.delete(sweeps).where(sweeps.c.sweep_id <= number - SWEEPS_KEPT))


def pause(tx: Tx, task_type: str, actor: str | None, reason: str | None) -> None:
    """Offer nothing of this type; said again, the new reason stands."""
    build = sqlite.insert if tx.connection.dialect.name == "sqlite" else postgresql.insert
    said = {"at": now(), "actor": actor, "reason": reason}
    statement = build(pauses).values(task_type=task_type, **said)
    tx.run(statement.on_conflict_do_update(index_elements=["task_type"], set_=said))


def resume(tx: Tx, task_type: str) -> list[int] | None:
    """Offer it again; the stalls that this closes, None where it was not paused.

    Waiting begins anew: while nothing was offered nobody let it wait.
    """
    if not tx.plain(sa.delete(pauses).where(pauses.c.task_type == task_type)).rowcount:
        return None
    tx.leaves(lambda: sa.select(sa.literal(1)).where(~sa.exists().where(pauses.c.task_type == task_type)))
    its_own = sa.true() if task_type == EVERY_TYPE else tasks.c.task_type == task_type
    over = _wait_anew(tx, its_own)
    close_stalls(tx, over, "resume")
    return over


def ask_anew(tx: Tx, task_ids: Sequence[str]) -> list[int]:
    """What these ask for is about to change, so those that are offered wait anew; the stalls that this closes."""
    over = _wait_anew(tx, among(tasks.c.task_id, "batch"), batch=dump_json(list(task_ids)))
    close_stalls(tx, over, "import")
    return over


def _wait_anew(tx: Tx, which: sa.ColumnElement[bool], **parameters: Any) -> list[int]:
    """Waiting is counted from now for those that are pending and offered; the stalls of the time before."""
    waits = sa.and_(tasks.c.status == TaskStatus.PENDING.value, tasks.c.available_at < now())
    # One statement: it waits for a sweep that is about to open stalls here.
    anew = sa.update(tasks).where(waits, which).values(available_at=now(), stall_id=sa.null())
    anew = anew.values(previous_stall_id=tasks.c.stall_id).returning(tasks.c.previous_stall_id)
    return [stall_id for stall_id in tx.run(anew, **parameters).scalars() if stall_id is not None]
