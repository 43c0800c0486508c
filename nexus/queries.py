"""Every SELECT but the sweep's own (`nexus.watch`), and how rows become values."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from nexus import moves
from nexus.arguments import json_list
from nexus.engine import Tx
from nexus.predicates import Claimant, Clause, is_due, is_held, is_waiting, of_the_agent, of_the_task, status_in
from nexus.rows import Row, to_attempt, to_task
from nexus.schemas import Agent, Attempt, HistoryEvent, Task
from nexus.sql import JsonList, among, overlaps
from nexus.states import HELD, TERMINAL, TaskStatus
from nexus.tables import agents, dependencies, tasks
from nexus.values import dump_json


def task_row(tx: Tx, task_id: str) -> Row | None:
    """The row of one task."""
    return tx.plain(sa.select(tasks).where(tasks.c.task_id == task_id)).one_or_none()


def task_rows(tx: Tx, task_ids: Sequence[str]) -> dict[str, Row]:
    """Rows by id, for those of the ids that exist."""
    statement = sa.select(tasks).where(among(tasks.c.task_id, "batch"))
    return {row.task_id: row for row in tx.plain(statement, {"batch": dump_json(list(task_ids))})}


def statuses_of(tx: Tx, task_ids: Sequence[str]) -> dict[str, str]:
    """The status of each of these tasks that exists."""
    statement = sa.select(tasks.c.task_id, tasks.c.status).where(among(tasks.c.task_id, "batch"))
    return {row.task_id: row.status for row in tx.plain(statement, {"batch": dump_json(list(task_ids))})}


def ids_of_keys(tx: Tx, keys: Sequence[str]) -> dict[str, str]:
    """The task ids that idempotency keys stand for."""
    # The second clause is the words of PostgreSQL's index.
    asked = among(tasks.c.idempotency_key, "batch"), tasks.c.idempotency_key.is_not(None)
    statement = sa.select(tasks.c.idempotency_key, tasks.c.task_id).where(*asked)
    return {row.idempotency_key: row.task_id for row in tx.plain(statement, {"batch": dump_json(list(keys))})}


def hold_still(tx: Tx, task_ids: Sequence[str]) -> dict[str, str]:
    """The status of each of these tasks that exists, held still until the transaction ends (PostgreSQL).

    Whoever adds a dependency looks at its target under this lock, so a target that is being completed right
    now either counts as completed here or finds the new edge when it counts its dependants down. Whoever redefines
    a task looks under it whether somebody works on that meanwhile.
    """
    statement = (
        sa.select(tasks.c.task_id, tasks.c.status)
        .where(among(tasks.c.task_id, "batch"))
        .order_by(tasks.c.seq)
        # Not FOR SHARE: whoever adds the first dependant writes `awaited` next, and two would wait for each other.
        .with_for_update(key_share=True)
    )
    return {row.task_id: row.status for row in tx.plain(statement, {"batch": dump_json(list(task_ids))})}


def edges_from(tx: Tx, task_ids: Sequence[str]) -> list[tuple[str, str]]:
    """Every edge that can be reached from these tasks: (task, what it waits for)."""
    start = sa.select(dependencies.c.task_id, dependencies.c.depends_on).where(among(dependencies.c.task_id, "batch"))
    reached = start.cte("reached", recursive=True)
    step = sa.select(dependencies.c.task_id, dependencies.c.depends_on).where(
        dependencies.c.task_id == reached.c.depends_on
    )
    rows = tx.plain(sa.select(reached.union(step)), {"batch": dump_json(list(task_ids))})
    return [(row.task_id, row.depends_on) for row in rows]


def list_tasks(
    tx: Tx,
    *,
    statuses: Sequence[TaskStatus] = (),
    task_type: str | None = None,
    tag: str | None = None,
    agent_id: str | None = None,
    episode_id: str | None = None,
    claimable: bool = False,
    after: str | None = None,
    limit: int | None = None,
) -> list[Task]:
    """Tasks by order of arrival (claimable ones by order of claim), after the cursor `after` (a task id)."""
    clauses: list[Clause] = []
    if statuses:
        clauses.append(status_in(statuses))
    if task_type is not None:
        clauses.append(tasks.c.task_type == task_type)
    if tag is not None:
        clauses.append(overlaps(tasks.c.tags, sa.literal(json_list([tag]), sa.Text())))
    if agent_id is not None:
        mine = sa.and_(tasks.c.claimed_by.is_(None), tasks.c.assigned_to == agent_id)
        clauses.append(sa.or_(tasks.c.claimed_by == agent_id, mine))
    if episode_id is not None:
        clauses.append(tasks.c.episode_id == episode_id)
    if after is not None:
        clauses.append(tasks.c.seq > sa.select(tasks.c.seq).where(tasks.c.task_id == after).scalar_subquery())
    statement = sa.select(tasks).where(*clauses)
    if claimable:
        statement = statement.where(is_waiting(), is_due())
        statement = statement.order_by(tasks.c.priority, tasks.c.available_at, tasks.c.seq)
    elif statuses and HELD.issuperset(statuses):
        # What is held is little, and has an index; in the order of the table SQLite would read all of it.
        statement = statement.order_by(tasks.c.seq + 0)
    else:
        statement = statement.order_by(tasks.c.seq)
    if limit is not None:
        statement = statement.limit(limit)
    return [to_task(row) for row in tx.run(statement)]


def counts(tx: Tx, episode_id: str | None = None) -> Counter[str]:
    """Tasks by status."""
    statement = sa.select(tasks.c.status, sa.func.count()).group_by(tasks.c.status)
    if episode_id is not None:
        statement = statement.where(tasks.c.episode_id == episode_id)
    return Counter({row[0]: row[1] for row in tx.plain(statement)})


def attempts_of(tx: Tx, task_id: str) -> list[Attempt]:
    """Every attempt at a task, first to last."""
    statement = moves.attempts_of(lambda column: column == task_id)
    return [to_attempt(row) for row in sorted(tx.plain(statement), key=lambda row: row.number)]


def attempts_by_task(tx: Tx, task_ids: Sequence[str]) -> dict[str, list[Attempt]]:
    """Every attempt at each of these tasks."""
    statement = moves.attempts_of(lambda column: among(column, "batch"))
    rows = tx.plain(statement, {"batch": dump_json(list(task_ids))})
    found: dict[str, list[Attempt]] = {}
    for row in sorted(rows, key=lambda row: row.number):
        found.setdefault(row.task_id, []).append(to_attempt(row))
    return found


def history_of(tx: Tx, task_id: str) -> list[HistoryEvent]:
    """Every move of a task, first to last."""
    rows = moves.in_order(list(tx.plain(moves.moves_of(lambda column: column == task_id))))
    return [HistoryEvent.model_validate(dict(row._mapping)) for row in rows]


def results_of(tx: Tx, task_ids: Sequence[str]) -> dict[str, Any]:
    """The results of these tasks, by id."""
    statement = sa.select(tasks.c.task_id, tasks.c.result).where(among(tasks.c.task_id, "batch"))
    return {row.task_id: row.result for row in tx.plain(statement, {"batch": dump_json(list(task_ids))})}


def agent_row(tx: Tx, agent_id: str, *, lock: bool = False) -> Row | None:
    """What is known of an agent; locked, so that two claims in its name count its claims one after the other."""
    statement = sa.select(agents).where(agents.c.agent_id == agent_id)
    return tx.plain(statement.with_for_update() if lock else statement).one_or_none()


def live_claims(tx: Tx, agent_id: str) -> int:
    """How many claims an agent holds now."""
    statement = sa.select(sa.func.count()).select_from(tasks).where(is_held(), tasks.c.claimed_by == agent_id)
    return int(tx.plain(statement).scalar_one())


def _held() -> sa.Subquery:
    """How many claims each agent holds."""
    return (
        sa.select(tasks.c.claimed_by, sa.func.count().label("live_claims"))
        .where(is_held())
        .group_by(tasks.c.claimed_by)
        .subquery()
    )


def list_agents(tx: Tx, agent_id: str | None = None) -> list[Agent]:
    """Every agent, or the one that is named, with the number of claims that it holds now."""
    held = _held()
    statement = (
        sa.select(agents, sa.func.coalesce(held.c.live_claims, 0).label("live_claims"))
        .outerjoin(held, held.c.claimed_by == agents.c.agent_id)
        .order_by(agents.c.agent_id)
    )
    if agent_id is not None:
        statement = statement.where(agents.c.agent_id == agent_id)
    return [Agent.model_validate(dict(row._mapping)) for row in tx.plain(statement)]


def assigned_waiting(tx: Tx) -> dict[str, int]:
    """How many pending tasks are assigned to each agent."""
    statement = (
        sa.select(tasks.c.assigned_to, sa.func.count())
        .where(status_in({TaskStatus.PENDING}), tasks.c.assigned_to.is_not(None))
        .group_by(tasks.c.assigned_to)
    )
    return {row[0]: row[1] for row in tx.plain(statement)}


def _meets(clauses: Mapping[str, Clause]) -> list[sa.ColumnElement[Any]]:
    return [sa.case((clause, 1), else_=0).label(f"meets_{code}") for code, clause in clauses.items()]


def explained_task(tx: Tx, task_id: str) -> Row | None:
    """A task's row with `meets_<code>` for each clause of the claim that does not ask who claims."""
    statement = sa.select(tasks, *_meets(of_the_task())).where(tasks.c.task_id == task_id)
    return tx.run(statement).one_or_none()


def explained_agents(tx: Tx, task_id: str, agent_id: str | None) -> list[Row]:
    """Every known agent (or one) with `meets_<code>` for each clause of the claim of this task that asks for it."""
    held = _held()
    statement = (
        sa.select(
            agents,
            sa.func.coalesce(held.c.live_claims, 0).label("live_claims"),
            *_meets(of_the_agent(Claimant.known())),
        )
        .join_from(agents, tasks, tasks.c.task_id == task_id)
        .outerjoin(held, held.c.claimed_by == agents.c.agent_id)
        .order_by(agents.c.agent_id)
    )
    if agent_id is not None:
        statement = statement.where(agents.c.agent_id == agent_id)
    return list(tx.plain(statement))


def explained_newcomer(tx: Tx, task_id: str, agent_id: str) -> Row:
    """The same for an agent that is not known yet."""
    said = {"agent_id": sa.literal(agent_id), "max_concurrency": sa.null(), "live_claims": sa.literal(0)}
    meets = [*_meets(of_the_agent(Claimant.bound(handles=False))), sa.literal(1).label("meets_no_handler")]
    nothing = sa.literal([], JsonList).label("capabilities")
    columns: list[sa.ColumnElement[Any]] = [value.label(name) for name, value in said.items()]
    statement = sa.select(*columns, nothing, *meets).where(tasks.c.task_id == task_id)
    return tx.plain(statement, {"agent_id": agent_id, "capabilities": "[]"}).one()


def unmet_targets(tx: Tx, task_id: str) -> list[Row]:
    """What a task still waits for: id and status."""
    statement = (
        sa.select(tasks.c.task_id, tasks.c.status)
        .join(dependencies, dependencies.c.depends_on == tasks.c.task_id)
        .where(dependencies.c.task_id == task_id, tasks.c.status != TaskStatus.COMPLETED.value)
        .order_by(tasks.c.seq)
    )
    return list(tx.plain(statement))


_OF_OPEN_WORK = tuple(
    tasks.c[name]
    for name in (
        "task_id", "task_type", "status", "reason", "depends_on", "on_dependency_failure", "assigned_to",
        "required_capabilities",
    )
)  # fmt: skip


def open_work(tx: Tx, episode_id: str | None) -> list[Row]:
    """Tasks that are not terminal: what they are, where they stand and who may do them (`nexus.outlook`), no payloads.

    Of one episode, or of the whole board.
    """
    statement = sa.select(*_OF_OPEN_WORK).where(status_in(set(TaskStatus) - TERMINAL)).order_by(tasks.c.seq)
    if episode_id is not None:
        statement = statement.where(tasks.c.episode_id == episode_id)
    return list(tx.plain(statement))
