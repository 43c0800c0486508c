"""Which tasks a claim takes: the most urgent ones that whoever asks can claim, however many others wait before them.

The order of a claim is the order of an index, but what stands first in it may be for others: another agent's, of
another type, paused, not due yet. So a claim looks at its head only; for what it does not find there it looks lane by
lane. A lane is all that asks the same of whoever claims it, so that one task of it answers for all. Lanes and their
priorities are stepped through in an index of their own, and of each the first few that are due are read: a claim grows
with the lanes that are open to the agent, not with what waits in them or in others.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from nexus.lanes import assignee, lane, ranges
from nexus.predicates import Claimant, is_claimable_by, is_due, is_offered, is_waiting, of_the_agent, wanted
from nexus.sql import Moment, chosen, seldom
from nexus.tables import tasks

BEYOND: Final = 50
"""How far a look goes beyond the number that is asked for: what stands there for others is passed over."""

OTHERS: Final = 3
"""On PostgreSQL it goes further, by what so many others lock at this moment, who ask for as many each."""

OTHERS_ASK_FOR: Final = 1_000
"""At most, each of them."""

_ASKED: Final = (
    "seq", "stall_id", "status", "unmet_dependencies", "available_at", "task_type", "assigned_to",
    "required_capabilities", "tags",
)  # fmt: skip
"""What a look at the head asks of a task."""

_NOTHING: Final[sa.ColumnElement[str]] = sa.literal_column("''", sa.Text())

_no_end: Final = sa.select(
    sa.literal_column("2147483647", sa.Integer()),
    sa.literal_column("CAST('infinity' AS timestamptz)", Moment()),
    sa.literal_column("9223372036854775807", sa.BigInteger()),
)
"""After every task in the order of a claim (PostgreSQL)."""

Columns = Sequence[str]
Order = Sequence[sa.ColumnElement[Any]]
Wishes = Mapping[str, bool]
"""Which of `predicates.WISHES` there are."""


def one_task(who: Claimant, wishes: Wishes, columns: Columns) -> sa.Select[Any]:
    """The one that is wished for. It waits for its lock, which may be held by somebody who only depends on it."""
    return _select(tasks, columns).where(is_claimable_by(who), *wanted(wishes)).with_for_update()


def at_the_head(who: Claimant, wishes: Wishes, columns: Columns, limit: int | None, *, sqlite: bool) -> sa.Select[Any]:
    """What is claimable of the first in the order of a claim: up to `limit`, which may be fewer than there are.

    None is the number that is bound, here and below.
    """
    if sqlite:
        # Read one by one, in that order, until there are enough. To say the order again would have it read all.
        first = sa.select(*(tasks.c[name] for name in _ASKED)).where(is_waiting()).order_by(*_turn(tasks))
        head = first.limit(_up_to(limit) + _number(BEYOND)).subquery("head")
        return _select(head, columns).where(is_claimable_by(who, head), *wanted(wishes, head)).limit(_up_to(limit))
    # PostgreSQL can lock what it reads from the table only. It reads there up to the first that is too far, if any is.
    too_far = sa.select(*_turn(tasks)).where(is_waiting()).order_by(*_turn(tasks))
    too_far = too_far.offset(_as_far_as(limit)).limit(_number(1))
    end = sa.union_all(too_far.subquery("too_far").select(), _no_end).limit(_number(1))
    is_in_it = sa.tuple_(*_turn(tasks)) < end.scalar_subquery()
    return _picked(_select(tasks, columns).where(is_claimable_by(who), *wanted(wishes), is_in_it), tasks, limit)


def by_lane(who: Claimant, wishes: Wishes, columns: Columns, limit: int | None, *, sqlite: bool) -> sa.Select[Any]:
    """All that is claimable, up to `limit`."""
    steps = _steps(in_episode=wishes["episode_id"])
    shown, found, picked = (tasks.alias(name) for name in ("shown", "found", "picked"))
    is_open = [is_offered(shown), *_suits(who, shown), *wanted({"task_types": wishes["task_types"]}, shown)]
    of_a_step = (
        _select(found, ["seq"])
        .select_from(shown.join(found, sa.and_(lane(found) == lane(shown), found.c.priority == shown.c.priority)))
        .where(shown.c.seq == steps.c.seq, *is_open)
        .where(is_waiting(found), is_due(found), *wanted(wishes, found))
        .order_by(found.c.available_at, found.c.seq)
        .limit(_up_to(limit) if sqlite else _as_far_as(limit))
        .correlate(steps)
    )
    # Nothing here is a plain join of two tables: the planners would rather read one of them whole.
    if sqlite:
        each: sa.FromClause = tasks.alias("each")
        of_all = steps.join(each, chosen(each.c.seq, of_a_step))
    else:
        each = of_a_step.lateral("each")
        of_all = steps.join(each, sa.true())
    # SQLite believes a recursion to make milliards of steps.
    is_there = seldom(steps.c.seq.is_not(None)), seldom(steps.c.high.is_not(None))
    candidates = _select(each, ["seq"]).select_from(of_all).where(*is_there)
    # They are asked once more, since they may have changed until their locks are there.
    is_still = is_waiting(picked), is_due(picked), assignee(picked).in_([_NOTHING, who.agent_id]), *_suits(who, picked)
    return _picked(_select(picked, columns).where(chosen(picked.c.seq, candidates), *is_still), picked, limit)


def _steps(*, in_episode: bool) -> sa.CTE:
    """The first task of each priority in each of the lanes that are bound; the last steps lead nowhere."""
    begin, below, beyond, last = (tasks.alias(name) for name in ("begin", "below", "beyond", "last"))

    def first(of: sa.FromClause, order: Order, *where: sa.ColumnElement[bool]) -> sa.ScalarSelect[Any]:
        inside = is_waiting(of), *wanted({"episode_id": in_episode}, of), *where
        found = _select(of, ["seq"]).where(*inside).order_by(*order).limit(_number(1))
        return found.correlate_except(of).scalar_subquery()

    def in_order(of: sa.FromClause) -> Order:
        return [lane(of), *_turn(of)]

    within = ranges("p_lanes")
    at_first = first(begin, in_order(begin), lane(begin) >= within.c.low, lane(begin) < within.c.high)
    steps = sa.select(at_first.label("seq"), within.c.high).cte("steps", recursive=True, nesting=True)
    # Within a lane it is in the order of the index already; with the lane SQLite would sort what is in it.
    less_urgent = first(below, _turn(below), lane(below) == lane(last), below.c.priority > last.c.priority)
    next_lane = first(beyond, in_order(beyond), lane(beyond) > lane(last), lane(beyond) < steps.c.high)
    following = sa.select(sa.func.coalesce(less_urgent, next_lane)).where(last.c.seq == steps.c.seq)
    step = sa.select(following.correlate(steps).scalar_subquery(), steps.c.high)
    return steps.union_all(step.where(steps.c.seq.is_not(None)))


def _suits(who: Claimant, source: sa.FromClause) -> list[sa.ColumnElement[bool]]:
    """The lane says whose it is. To ask it of the column has PostgreSQL plan anew for each agent."""
    return [clause for code, clause in of_the_agent(who, source).items() if code != "assigned"]


def _turn(source: sa.FromClause) -> Order:
    """The order of a claim."""
    return [source.c.priority, source.c.available_at, source.c.seq]


def _select(source: sa.FromClause, columns: Columns) -> sa.Select[Any]:
    return sa.select(*(source.c[name] for name in columns))


def _picked(found: sa.Select[Any], of: sa.FromClause, limit: int | None) -> sa.Select[Any]:
    """The first of them that nobody is at: rows that another claim has locked are skipped."""
    return found.order_by(*_turn(of)).limit(_up_to(limit)).with_for_update(skip_locked=True, of=of)


def _up_to(limit: int | None) -> sa.ColumnElement[int]:
    return sa.bindparam("limit", type_=sa.Integer()) if limit is None else _number(limit)


def _as_far_as(limit: int | None) -> sa.ColumnElement[int]:
    """So many are read on PostgreSQL to find `limit` that nobody else claims at this moment."""
    if limit is None:
        return _up_to(limit) + _number(OTHERS * OTHERS_ASK_FOR + BEYOND)
    return _number(limit + OTHERS * min(limit, OTHERS_ASK_FOR) + BEYOND)


def _number(number: int) -> sa.ColumnElement[int]:
    """It stands in the statement, since PostgreSQL plans anew for each that is bound."""
    return sa.literal_column(str(number), sa.Integer())
