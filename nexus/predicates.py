"""What a task must be for a claim to take it: clauses that the claim, the listings and `explain` share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import sqlalchemy as sa

from nexus.monitoring import EscalationPolicy, TaskMonitoringConfig
from nexus.sql import among, among_numbers, covers, later, not_before, now, overlaps
from nexus.states import HELD, TaskStatus
from nexus.tables import agents, pauses, tasks
from nexus.values import dump_json

EVERY_TYPE: Final = "*"
"""A pause of this type is one of the whole board."""

Clause = sa.ColumnElement[bool]


def status_in(states: Iterable[TaskStatus]) -> Clause:
    """Literals, not parameters: the partial indexes match, and PostgreSQL can keep one plan."""
    listed: list[sa.ColumnElement[str]] = [sa.literal_column(f"'{state}'") for state in sorted(states)]
    return tasks.c.status == listed[0] if len(listed) == 1 else tasks.c.status.in_(listed)


def is_held() -> Clause:
    """Somebody holds a claim on it."""
    return status_in(HELD)


def is_waiting(source: sa.FromClause = tasks) -> Clause:
    """Pending, with nothing left to wait for but time and an agent. The partial indexes' own words."""
    pending = source.c.status == sa.literal_column(f"'{TaskStatus.PENDING}'")
    return sa.and_(pending, source.c.unmet_dependencies == sa.literal_column("0"))


def is_due() -> Clause:
    """Its time has come."""
    return tasks.c.available_at <= now()


def is_urgent_enough() -> Clause:
    """Not more urgent than everything whose time has come: it only spares SQLite to read past what is not due yet.

    In the order of a claim (priority, then time) that stands before what is due: a hundred thousand urgent tasks in
    backoff would cost each claim 4 ms. So the priorities are looked up one after the other, until one has a task
    that is due.
    """
    first, following, due = (tasks.alias(name) for name in ("first", "following", "due"))
    least = sa.select(sa.func.min(first.c.priority)).where(is_waiting(first)).scalar_subquery()
    begin = sa.select(least.label("priority")).cte("priorities", recursive=True, nesting=True)
    beyond = sa.select(sa.func.min(following.c.priority))
    beyond = beyond.where(is_waiting(following), following.c.priority > begin.c.priority)
    priorities = begin.union_all(sa.select(beyond.scalar_subquery()).where(begin.c.priority.is_not(None)))
    has_due = sa.exists().where(is_waiting(due), due.c.priority == priorities.c.priority, due.c.available_at <= now())
    found = sa.select(priorities.c.priority).where(has_due).limit(sa.literal_column("1"))
    return not_before(tasks.c.priority, found.scalar_subquery())


def is_offered() -> Clause:
    """Neither its type nor the whole board is paused. Not correlated: it is asked once a statement, not once a row."""
    paused = sa.select(pauses.c.task_type)
    board = sa.exists().where(pauses.c.task_type == sa.literal_column(f"'{EVERY_TYPE}'"))
    return sa.and_(tasks.c.task_type.not_in(paused), ~board)


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who would claim: bound parameters in a claim, the columns of `nexus_agents` in an explanation."""

    agent_id: sa.ColumnElement[str]
    capabilities: sa.ColumnElement[Any]
    task_types: sa.ColumnElement[Any] | None
    """The types that it handles; None where it did not say."""

    @classmethod
    def bound(cls, *, handles: bool) -> Self:
        """The agent whose `agent_id`, `capabilities` and, where it `handles` only some types, `handled` are bound."""
        text = sa.Text()
        return cls(
            sa.bindparam("agent_id", type_=text),
            sa.bindparam("capabilities", type_=text),
            sa.bindparam("handled", type_=text) if handles else None,
        )

    @classmethod
    def known(cls) -> Self:
        """Each agent that is registered."""
        return cls(agents.c.agent_id, agents.c.capabilities, agents.c.task_types)


def of_the_task() -> dict[str, Clause]:
    """What keeps a task from everybody, by the code of the reason that `explain` gives."""
    return {
        "status": status_in({TaskStatus.PENDING}),
        "dependency": tasks.c.unmet_dependencies == sa.literal_column("0"),
        "time": is_due(),
        "paused": is_offered(),
    }


def of_the_agent(who: Claimant) -> dict[str, Clause]:
    """What keeps a task from one agent, by the code of the reason; its limit is counted outside, under a lock."""
    clauses: dict[str, Clause] = {
        "assigned": sa.or_(tasks.c.assigned_to.is_(None), tasks.c.assigned_to == who.agent_id),
        "capability": covers(who.capabilities, tasks.c.required_capabilities),
    }
    if who.task_types is not None:
        handled = among(tasks.c.task_type, who.task_types)
        is_column = isinstance(who.task_types, sa.Column)
        clauses["no_handler"] = sa.or_(who.task_types.is_(None), handled) if is_column else handled
    return clauses


def is_claimable_by(who: Claimant) -> Clause:
    """The claim's whole predicate: what `explain` takes apart."""
    return sa.and_(*of_the_task().values(), *of_the_agent(who).values())


def is_expired() -> Clause:
    """Its lease is over."""
    return sa.and_(is_held(), tasks.c.lease_expires_at <= now())


def waits_longer_than(seconds: sa.ColumnElement[float]) -> Clause:
    """Claimable for more than `seconds`. Every move to pending sets `available_at`: waiting counts from there."""
    return sa.and_(is_waiting(), is_offered(), tasks.c.available_at <= later(now(), -seconds))


def is_watched(kind: str) -> Clause:
    """It still has the stall, of those bound to `stalls`, for whose sake something is about to be done to it."""
    return among_numbers(tasks.c.stall_id if kind == "waiting" else tasks.c.overdue_id, "stalls")


def fits(policy: EscalationPolicy) -> Clause:
    """The policy's selectors."""
    clauses: list[Clause] = [sa.true()]
    if policy.task_types:
        clauses.append(tasks.c.task_type.in_(policy.task_types))
    if policy.tags:
        clauses.append(overlaps(tasks.c.tags, sa.literal(dump_json(list(policy.tags)), sa.Text())))
    if policy.priority is not None:
        clauses.append(tasks.c.priority <= policy.priority)
    return sa.and_(*clauses)


def policy_number(policies: Sequence[EscalationPolicy]) -> sa.ColumnElement[int]:
    """Which of the policies is a task's: the first that fits; the last one fits everything."""
    *some, _ = policies
    if not some:
        return sa.literal(0)
    return sa.case(*((fits(policy), number) for number, policy in enumerate(some)), else_=len(some))


def threshold_seconds(config: TaskMonitoringConfig, learnt: Mapping[str, float]) -> sa.ColumnElement[float]:
    """How long a task may wait: its policy's own threshold, else the one learnt for its type, else the general one."""
    general: Any = sa.literal(config.pending_timeout_seconds, sa.Double())
    if learnt:
        general = sa.case(dict(learnt), value=tasks.c.task_type, else_=general)
    own = [(fits(policy), policy.pending_timeout_seconds or general) for policy in config.policies]
    return sa.case(*own, else_=general) if own else general


def wanted(*, task_types: bool, tags: bool, type_or_tag: bool, episode: bool, task_id: bool) -> list[Clause]:
    """The caller's own wishes, as far as there are any.

    The values are bound under these names with `p_` before them: SQLAlchemy keeps the names of the columns of an
    UPDATE (`tags`, say) for itself.
    """
    clauses: list[Clause] = []
    if task_types:
        clauses.append(among(tasks.c.task_type, "p_task_types"))
    if tags:
        clauses.append(overlaps(tasks.c.tags, sa.bindparam("p_tags", type_=sa.Text())))
    if type_or_tag:
        either = sa.bindparam("p_type_or_tag", type_=sa.Text())
        clauses.append(sa.or_(among(tasks.c.task_type, "p_type_or_tag"), overlaps(tasks.c.tags, either)))
    if episode:
        clauses.append(tasks.c.episode_id == sa.bindparam("p_episode_id", type_=sa.Text()))
    if task_id:
        clauses.append(tasks.c.task_id == sa.bindparam("p_task_id", type_=sa.Text()))
    return clauses
