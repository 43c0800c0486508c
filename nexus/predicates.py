"""What a task must be for a claim to take it: clauses that the claim, the listings and `explain` share."""

from collections.abc import Iterable

import sqlalchemy as sa

from nexus.sql import among, covers, later, now, overlaps
from nexus.states import HELD, TaskStatus
from nexus.tables import tasks

Clause = sa.ColumnElement[bool]


def status_in(states: Iterable[TaskStatus]) -> Clause:
    """Literals, not parameters: the partial indexes match, and PostgreSQL can keep one plan."""
    listed: list[sa.ColumnElement[str]] = [sa.literal_column(f"'{state}'") for state in sorted(states)]
    return tasks.c.status == listed[0] if len(listed) == 1 else tasks.c.status.in_(listed)


def is_held() -> Clause:
    """Somebody holds a claim on it."""
    return status_in(HELD)


def is_waiting() -> Clause:
    """Pending, with nothing left to wait for but time and an agent. The partial indexes' own words."""
    return sa.and_(status_in({TaskStatus.PENDING}), tasks.c.unmet_dependencies == sa.literal_column("0"))


def is_due() -> Clause:
    """Its time has come."""
    return tasks.c.available_at <= now()


def suits(agent: str = "agent_id", capabilities: str = "capabilities") -> Clause:
    """Assigned to nobody or to the agent, whose capabilities cover it. Arguments name bound parameters."""
    given = sa.bindparam(capabilities, type_=sa.Text())
    return sa.and_(
        sa.or_(tasks.c.assigned_to.is_(None), tasks.c.assigned_to == sa.bindparam(agent, type_=sa.Text())),
        covers(given, tasks.c.required_capabilities),
    )


def is_expired() -> Clause:
    """Its lease is over."""
    return sa.and_(is_held(), tasks.c.lease_expires_at <= now())


def waits_longer_than(seconds: sa.BindParameter[float]) -> Clause:
    """Claimable for more than `seconds`. Every move to pending sets `available_at`: waiting counts from there."""
    return sa.and_(is_waiting(), tasks.c.available_at <= later(now(), -seconds))


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
