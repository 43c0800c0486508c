"""Every INSERT and UPDATE that moves no task: new tasks, attempts, history, agents, stalls.

What moves a task stands in `nexus.transitions`.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from nexus import bulk, moves
from nexus.commits import row_of
from nexus.engine import Tx
from nexus.predicates import EVERY_TYPE
from nexus.rows import Row
from nexus.schemas import Claim
from nexus.sql import Moment, among, among_numbers, later, now, seconds_between
from nexus.states import TRANSITIONS, AttemptOutcome, TaskStatus, Verb
from nexus.tables import agents, attempts, dependencies, history, pauses, stall_steps, stalls, sweeps, tasks
from nexus.values import dump_json


def _insert_new(tx: Tx, table: sa.Table) -> Any:
    """An INSERT that leaves a row alone which is there already."""
    build = sqlite.insert if tx.connection.dialect.name == "sqlite" else postgresql.insert
    return build(table).on_conflict_do_nothing()


CHANNEL: Final = "nexus_work"
"""Where PostgreSQL says that there may be work."""


def ring(tx: Tx) -> None:
    """Wake who waits for work, once this is committed. (An SQLite file is seen to change.)"""
    if tx.connection.dialect.name == "postgresql":
        tx.plain(sa.select(sa.func.pg_notify(CHANNEL, "")))


def add_tasks(tx: Tx, rows: Sequence[Mapping[str, Any]], alike: Mapping[str, Any] | None = None) -> set[str]:
    """Insert task rows; the ids of those that were new. Conflicts of id or idempotency key are left out.

    `alike`: what they have in common, as far as they do not say otherwise.
    """
    if not rows:
        return set()
    statement, parameters = bulk.insert(tx, tasks, rows, alike)
    added = set(tx.plain(statement.on_conflict_do_nothing().returning(tasks.c.task_id), parameters).scalars())
    for row in rows:
        if row["task_id"] in added:
            came = {**(alike or {}), **row}["created_at"]
            tx.leaves(row_of(tasks, task_id=row["task_id"], created_at=came))
            break
    ring(tx)
    return added


def add_dependencies(tx: Tx, edges: Iterable[tuple[str, str]]) -> None:
    """Insert edges (task, what it waits for), and note on the targets that somebody waits for them."""
    rows = [{"task_id": task_id, "depends_on": target} for task_id, target in edges]
    if rows:
        statement, parameters = bulk.insert(tx, dependencies, rows)
        tx.plain(statement.on_conflict_do_nothing(), parameters)
        awaited = sa.update(tasks).where(among(tasks.c.task_id, "batch"), ~tasks.c.awaited).values(awaited=sa.true())
        tx.plain(awaited, {"batch": dump_json(sorted({row["depends_on"] for row in rows}))})


def redefine_task(tx: Tx, task_id: str, values: Mapping[str, Any]) -> None:
    """Change what a task asks for (not where it stands): the second import of a changed board."""
    statement = sa.update(tasks).where(tasks.c.task_id == sa.bindparam("p_task_id"))
    tx.run(statement.values(**values, updated_at=now()), p_task_id=task_id)


def replace_dependencies(tx: Tx, task_id: str, targets: Iterable[str]) -> None:
    """Give a task these dependencies in place of its old ones."""
    tx.plain(sa.delete(dependencies).where(dependencies.c.task_id == task_id))
    add_dependencies(tx, [(task_id, target) for target in targets])


def count_dependencies(tx: Tx, task_ids: Sequence[str]) -> None:
    """Set `unmet_dependencies` of these tasks from what they wait for now."""
    target = tasks.alias("target")
    unmet = (
        sa.select(sa.func.count())
        .select_from(dependencies.join(target, target.c.task_id == dependencies.c.depends_on))
        .where(dependencies.c.task_id == tasks.c.task_id, target.c.status != TaskStatus.COMPLETED.value)
        .scalar_subquery()
    )
    statement = sa.update(tasks).where(among(tasks.c.task_id, "batch")).values(unmet_dependencies=unmet)
    tx.plain(statement, {"batch": dump_json(list(task_ids))})


def told_of(
    moved: sa.FromClause, verb: Verb | str, actor: sa.ColumnElement[Any], reason: sa.ColumnElement[Any]
) -> sa.Insert:
    """The lines in the history for a move, read from its tasks as it left them.

    Where it ended a claim under which nobody had begun, also the line for that claim: no attempt tells of it.
    """
    told: sa.Select[Any] | sa.CompoundSelect[Any] = _move(moved, verb, actor, reason)
    if isinstance(verb, Verb) and TaskStatus.CLAIMED in TRANSITIONS[verb].sources:
        told = _unbegun(moved).union_all(told)
    return sa.insert(history).from_select(moves.COLUMNS, told)


def _unbegun(moved: sa.FromClause) -> sa.Select[Any]:
    claim, pending, claimed = (
        sa.literal_column(f"'{word}'", sa.Text()) for word in (Verb.CLAIM, TaskStatus.PENDING, TaskStatus.CLAIMED)
    )
    columns = (moved.c.task_id, moved.c.claimed_at, claim, pending, claimed, moved.c.holder, moved.c.claim_no)
    over = sa.and_(moved.c.previous_status == claimed, moved.c.claimed_at.is_not(None))
    return sa.select(*columns, sa.null(), moved.c.waited_seconds).where(over)


def _move(
    moved: sa.FromClause, verb: Verb | str, actor: sa.ColumnElement[Any], reason: sa.ColumnElement[Any]
) -> sa.Select[Any]:
    left_the_offer = sa.and_(
        moved.c.previous_status == sa.literal_column(f"'{TaskStatus.PENDING}'"),
        moved.c.status != sa.literal_column(f"'{TaskStatus.PENDING}'"),
        moved.c.unmet_dependencies == sa.literal_column("0"),
        moved.c.updated_at >= moved.c.available_at,
    )
    waited = sa.case((left_the_offer, seconds_between(moved.c.available_at, moved.c.updated_at)), else_=sa.null())
    return sa.select(
        moved.c.task_id,
        moved.c.updated_at,
        sa.literal_column(f"'{verb}'", sa.Text()),
        moved.c.previous_status,
        moved.c.status,
        actor,
        moved.c.claim_no,
        reason,
        waited,
    )


@cache
def _history(verb: Verb | str) -> sa.Insert:
    listed = sa.select(tasks).where(among_numbers(tasks.c.seq, "moved")).order_by(tasks.c.seq).subquery()
    words = (sa.bindparam(name, type_=sa.Text()) for name in ("p_actor", "p_why"))
    return told_of(listed, verb, *words)


def write_history(
    tx: Tx, verb: Verb | str, rows: Iterable[Row], *, actor: str | None, reason: str | None = None
) -> None:
    """The lines of moved tasks (by `seq`), read from what the move left there, in its own transaction."""
    moved = list(rows)
    if moved:
        leaves(tx, verb, moved[0])
        numbers = dump_json([row.seq for row in moved])
        tx.plain(_history(verb), {"moved": numbers, "p_actor": actor, "p_why": reason})


def leaves(tx: Tx, verb: Verb | str, row: Row) -> None:
    """A move leaves its place in the record, which tells later that it was made."""
    task_id, moment, number = row.task_id, row.updated_at, row.claim_no
    tx.leaves(lambda: moves.made(task_id, verb, moment, number))


def write_events(tx: Tx, events: Sequence[Mapping[str, Any]]) -> None:
    """History rows as they are: of moves, what an import brings, and what is said of agents."""
    if events:
        shared_by_no_two = ("task_id", "at", "verb", "actor", "claim_no")
        tx.leaves(row_of(history, **{name: events[0][name] for name in shared_by_no_two}))
        tx.plain(*bulk.insert(tx, history, events))


def add_attempts(tx: Tx, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert attempt rows as they are."""
    if rows:
        tx.plain(*bulk.insert(tx, attempts, rows))


_TRIED: Final = (
    "task_id", "number", "claim_no", "agent_id", "outcome", "claimed_at", "waited_seconds", "started_at",
    "heartbeat_at", "finished_at", "error", "result", "note", "run_ref", "led_to",
)  # fmt: skip


def tried(
    moved: sa.FromClause,
    outcome: AttemptOutcome,
    *,
    error: sa.ColumnElement[Any] | None = None,
    result: sa.ColumnElement[Any] | None = None,
) -> sa.Insert:
    """The attempts that ended with a move, read from its tasks as it left them."""
    ended = sa.select(
        moved.c.task_id,
        moved.c.attempt_count,
        moved.c.claim_no,
        moved.c.holder,
        sa.literal_column(f"'{outcome}'", sa.Text()),
        moved.c.claimed_at,
        moved.c.waited_seconds,
        moved.c.started_at,
        moved.c.heartbeat_at,
        moved.c.updated_at,
        sa.null() if error is None else error,
        sa.null() if result is None else result,
        moved.c.note,
        moved.c.run_ref,
        moved.c.status,
    ).where(moved.c.previous_status == sa.literal_column(f"'{TaskStatus.IN_PROGRESS}'"))
    return sa.insert(attempts).from_select(_TRIED, ended)


@cache
def _tried(outcome: AttemptOutcome) -> sa.Insert:
    listed = sa.select(tasks).where(among_numbers(tasks.c.seq, "moved")).subquery()
    return tried(listed, outcome, error=sa.bindparam("p_error", type_=sa.Text()))


def close_attempts(tx: Tx, rows: Iterable[Row], outcome: AttemptOutcome, *, error: str | None) -> None:
    """Write down the attempts that ended with a move of these tasks, where there were any."""
    numbers = [row.seq for row in rows if row.previous_status == TaskStatus.IN_PROGRESS]
    if numbers:
        tx.plain(_tried(outcome), {"moved": dump_json(numbers), "p_error": error})


def keep_late_results(tx: Tx, results: Sequence[tuple[Claim, Any]]) -> None:
    """Results that came after their claims were lost, on the attempts that made them."""
    statement = (
        sa.update(attempts)
        .where(
            attempts.c.task_id == sa.bindparam("p_task_id"),
            attempts.c.claim_no == sa.bindparam("p_claim_no"),
            attempts.c.outcome != AttemptOutcome.COMPLETED.value,
        )
        .values(late_result=sa.bindparam("p_result", type_=attempts.c.late_result.type))
    )
    rows = [{"p_task_id": held.task_id, "p_claim_no": held.claim_no, "p_result": late} for held, late in results]
    tx.plain(statement, rows)


def add_agent(tx: Tx, agent_id: str) -> None:
    """An agent that nobody registered, under open registration."""
    statement = _insert_new(tx, agents).values(
        agent_id=agent_id, capabilities=[], registered_at=now(), last_seen_at=now()
    )
    tx.run(statement)


def set_agent(tx: Tx, agent_id: str, values: Mapping[str, Any]) -> None:
    """Register an agent, or change what is known of it."""
    build = sqlite.insert if tx.connection.dialect.name == "sqlite" else postgresql.insert
    statement = build(agents).values(agent_id=agent_id, registered_at=now(), **{"capabilities": [], **values})
    changed = {**values, "revision": agents.c.revision + 1}
    tx.run(
        statement.on_conflict_do_update(index_elements=["agent_id"], set_=changed)
        if values
        else statement.on_conflict_do_nothing()
    )


def seen(tx: Tx, agent_id: str) -> None:
    """The agent lives; written at most every 15 s, because an agent claims more often than that."""
    tx.run(
        sa.update(agents)
        .where(
            agents.c.agent_id == agent_id,
            sa.or_(agents.c.last_seen_at.is_(None), agents.c.last_seen_at < later(now(), -15)),
        )
        .values(last_seen_at=now())
    )


def open_stalls(tx: Tx, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Stalls for these waiting periods or deadlines; their ids by task.

    One that is there already is opened again: it is the same period, and its steps stay done.
    """
    new, parameters = bulk.insert(tx, stalls, rows)
    again = {"closed_at": sa.null(), "closed_by": sa.null(), "next_step_at": new.excluded.next_step_at}
    statement = new.on_conflict_do_update(index_elements=["task_id", "kind", "since"], set_=again)
    rows_there = tx.plain(statement.returning(stalls.c.task_id, stalls.c.stall_id), parameters)
    return {row.task_id: row.stall_id for row in rows_there}


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
    statement, parameters = bulk.insert(tx, stall_steps, rows)
    statement = statement.on_conflict_do_nothing().returning(stall_steps.c.stall_id)
    taken = set(tx.plain(statement, parameters).scalars())
    if taken:
        tx.leaves(row_of(stall_steps, stall_id=min(taken), step=step, at=at))
    return taken


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


def close_runs(tx: Tx, keys: Sequence[tuple[str, int]]) -> None:
    """Prefect knows that the runs of these attempts (task id, number) are over."""
    statement = sa.update(attempts).where(
        attempts.c.task_id == sa.bindparam("p_task_id"), attempts.c.number == sa.bindparam("p_number")
    )
    rows = [{"p_task_id": task_id, "p_number": number} for task_id, number in keys]
    tx.plain(statement.values(run_closed_at=tx.present()), rows)


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
