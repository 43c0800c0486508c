"""Every INSERT and UPDATE that moves no task: new tasks, attempts, history, agents.

What is said of waiting stands in `nexus.waiting`, what moves a task in `nexus.transitions`.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from nexus import bulk, moves
from nexus.commits import row_of
from nexus.engine import Tx
from nexus.rows import Row
from nexus.schemas import Claim
from nexus.sql import among, among_numbers, later, now, seconds_between
from nexus.states import TRANSITIONS, AttemptOutcome, TaskStatus, Verb
from nexus.tables import agents, attempts, dependencies, history, tasks
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


def _new(statement: Any) -> sa.Insert:
    """What is there already stays as it is."""
    new: sa.Insert = statement.on_conflict_do_nothing()
    return new


def _new_tasks(statement: Any) -> sa.Insert:
    return _new(statement).returning(tasks.c.task_id)


def add_tasks(tx: Tx, rows: Sequence[Mapping[str, Any]], alike: Mapping[str, Any] | None = None) -> set[str]:
    """Insert task rows; the ids of those that were new. Conflicts of id or idempotency key are left out.

    `alike`: what they have in common, as far as they do not say otherwise.
    """
    if not rows:
        return set()
    added = {row.task_id for row in bulk.insert(tx, tasks, rows, alike, finish=_new_tasks)}
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
        bulk.insert(tx, dependencies, rows, finish=_new)
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
        bulk.insert(tx, history, events)


def add_attempts(tx: Tx, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert attempt rows as they are."""
    if rows:
        bulk.insert(tx, attempts, rows)


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


def close_runs(tx: Tx, keys: Sequence[tuple[str, int]]) -> None:
    """Prefect knows that the runs of these attempts (task id, number) are over."""
    statement = sa.update(attempts).where(
        attempts.c.task_id == sa.bindparam("p_task_id"), attempts.c.number == sa.bindparam("p_number")
    )
    rows = [{"p_task_id": task_id, "p_number": number} for task_id, number in keys]
    tx.plain(statement.values(run_closed_at=tx.present()), rows)


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
