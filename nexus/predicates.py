"""What a task must be for a claim to take it: clauses that the claim, the listings and `explain` share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import sqlalchemy as sa

from nexus.monitoring import EscalationPolicy, TaskMonitoringConfig
from nexus.sql import among, among_numbers, covers, later, now, overlaps
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


def is_due(source: sa.FromClause = tasks) -> Clause:
    """Its time has come."""
    return source.c.available_at <= now()


def is_offered(source: sa.FromClause = tasks) -> Clause:
    """Neither its type nor the whole board is paused. Not correlated: it is asked once a statement, not once a row."""
    paused = sa.select(pauses.c.task_type)
    board = sa.exists().where(pauses.c.task_type == sa.literal_column(f"'{EVERY_TYPE}'"))
    return sa.and_(source.c.task_type.not_in(paused), ~board)


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


def of_the_task(source: sa.FromClause = tasks) -> dict[str, Clause]:
    """What keeps a task from everybody, by the code of the reason that `explain` gives."""
    return {
        "status": source.c.status == sa.literal_column(f"'{TaskStatus.PENDING}'"),
        "dependency": source.c.unmet_dependencies == sa.literal_column("0"),
        "time": is_due(source),
        "paused": is_offered(source),
    }


def of_the_agent(who: Claimant, source: sa.FromClause = tasks) -> dict[str, Clause]:
    """What keeps a task from one agent, by the code of the reason; its limit is counted outside, under a lock."""
    clauses: dict[str, Clause] = {
        "assigned": sa.or_(source.c.assigned_to.is_(None), source.c.assigned_to == who.agent_id),
        "capability": covers(who.capabilities, source.c.required_capabilities),
    }
    if who.task_types is not None:
        handled = among(source.c.task_type, who.task_types)
        is_column = isinstance(who.task_types, sa.Column)
        clauses["no_handler"] = sa.or_(who.task_types.is_(None), handled) if is_column else handled
    return clauses


def is_claimable_by(who: Claimant, source: sa.FromClause = tasks) -> Clause:
    """The claim's whole predicate: what `explain` takes apart."""
    return sa.and_(*of_the_task(source).values(), *of_the_agent(who, source).values())


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


def wanted(wishes: Mapping[str, bool], source: sa.FromClause = tasks) -> list[Clause]:
    """The caller's own wishes: by name which of `WISHES` there are.

    The values are bound under these names with `p_` before them: SQLAlchemy keeps the names of the columns of an
    UPDATE (`tags`, say) for itself.
    """
    return [WISHES[name](source, f"p_{name}") for name, is_wished in wishes.items() if is_wished]


def _has_tag(source: sa.FromClause, bound: str) -> Clause:
    return overlaps(source.c.tags, sa.bindparam(bound, type_=sa.Text()))


WISHES: Final[Mapping[str, Callable[[sa.FromClause, str], Clause]]] = {
    "task_types": lambda source, bound: among(source.c.task_type, bound),
    "tags": _has_tag,
    "type_or_tag": lambda source, bound: sa.or_(among(source.c.task_type, bound), _has_tag(source, bound)),
    "episode_id": lambda source, bound: source.c.episode_id == sa.bindparam(bound, type_=sa.Text()),
    "task_id": lambda source, bound: source.c.task_id == sa.bindparam(bound, type_=sa.Text()),
}
"""What a claim can ask for, by name: of the tasks and the name of the value that is bound."""
