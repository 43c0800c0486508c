"""The SELECTs of the board at a glance: a handful of them, and each brings no more rows than are shown.

But for the counts by status, none reads the tasks that are finished: what waits, what is held, what failed lately and
what ended lately each have an index of their own.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from nexus import queries, watch
from nexus.engine import Tx
from nexus.overview import AgentAtWork, Ended, Overview, Slice, Waiting
from nexus.predicates import EVERY_TYPE, is_due, is_held, is_waiting, status_in
from nexus.rows import Row
from nexus.sql import Moment, one_of
from nexus.states import AttemptOutcome, TaskStatus
from nexus.tables import agents, attempts, stalls, tasks

SLICES: Final = 12
"""Parts of the window."""

MOST_TASKS: Final = 5
"""Tasks that are named of an agent."""

MOST_STALLS: Final = 10

WENT_WRONG: Final = (AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT, AttemptOutcome.LOST)


def overview(tx: Tx, window_seconds: float) -> Overview:
    """All of it, as of one moment."""
    present = tx.present()
    window = timedelta(seconds=window_seconds)
    edges = [present - window + window * number / SLICES for number in range(SLICES + 1)]
    counts = queries.counts(tx)
    pauses = watch.list_pauses(tx)
    waiting = tuple(_waiting(tx, {pause.task_type for pause in pauses}))
    at_work, idle = _agents(tx, edges[0])
    ended, slices = _ended(tx, edges)
    return Overview(
        at=present,
        window_seconds=window_seconds,
        counts={TaskStatus(status): number for status, number in counts.items()},
        waiting=waiting,
        waits_for_others=counts[TaskStatus.PENDING] - sum(one.number for one in waiting),
        agents=at_work,
        idle_agents=idle,
        ended=ended,
        slices=slices,
        open_stalls=_open_stalls(tx),
        stalls=tuple(watch.list_stalls(tx, open_only=True, limit=MOST_STALLS)),
        expired_leases=watch.overdue_leases(tx, 0),
        last_sweep=watch.last_sweep(tx),
        pauses=tuple(pauses),
    )


def _waiting(tx: Tx, paused: set[str]) -> Iterator[Waiting]:
    """By type: how many, and the oldest."""
    due = sa.case((is_due(), 1), else_=0)
    by_type = tasks.c.task_type
    ranked = (
        sa.select(
            by_type,
            tasks.c.task_id.label("oldest_id"),
            tasks.c.available_at.label("oldest_since"),
            sa.func.row_number().over(partition_by=by_type, order_by=[tasks.c.available_at, tasks.c.seq]).label("rank"),
            sa.func.count().over(partition_by=by_type).label("number"),
            sa.func.sum(due).over(partition_by=by_type).label("claimable"),
        )
        .where(is_waiting())
        .subquery()
    )
    statement = sa.select(ranked).where(ranked.c.rank == 1).order_by(ranked.c.oldest_since, ranked.c.task_type)
    for row in tx.run(statement):
        stopped = bool(paused & {EVERY_TYPE, row.task_type})
        yield Waiting(
            task_type=row.task_type,
            number=row.number,
            claimable=0 if stopped else row.claimable,
            oldest_id=row.oldest_id,
            oldest_since=row.oldest_since,
            is_paused=stopped,
        )


def _agents(tx: Tx, since: datetime) -> tuple[tuple[AgentAtWork, ...], int]:
    """Whoever holds something, or was seen since then; and how many others are known.

    Whom an import names as the holder of a task need not be known.
    """
    seen = {row.agent_id: row.last_seen_at for row in tx.plain(sa.select(agents.c.agent_id, agents.c.last_seen_at))}
    held = _held(tx)
    lately = {agent_id for agent_id, at in seen.items() if at is not None and at > since}
    at_work = tuple(
        AgentAtWork(
            agent_id=one,
            live_claims=held[one][0].number if one in held else 0,
            task_ids=tuple(row.task_id for row in held.get(one, ())),
            last_seen_at=seen.get(one),
        )
        for one in sorted(lately | held.keys())
    )
    return at_work, len(seen.keys() - lately - held.keys())


def _held(tx: Tx) -> dict[str, list[Row]]:
    """A few of the tasks that each holder holds, with the `number` of all."""
    who, since = tasks.c.claimed_by, sa.func.coalesce(tasks.c.claimed_at, tasks.c.updated_at)
    ranked = (
        sa.select(
            who,
            tasks.c.task_id,
            sa.func.row_number().over(partition_by=who, order_by=[since, tasks.c.seq]).label("rank"),
            sa.func.count().over(partition_by=who).label("number"),
        )
        .where(is_held())
        .subquery()
    )
    few = sa.select(ranked).where(ranked.c.rank <= MOST_TASKS).order_by(ranked.c.claimed_by, ranked.c.rank)
    found: dict[str, list[Row]] = {}
    for row in tx.plain(few):
        found.setdefault(row.claimed_by, []).append(row)
    return found


def _ended(tx: Tx, edges: list[datetime]) -> tuple[tuple[Ended, ...], tuple[Slice, ...]]:
    """What ended between the first and the last of these moments: by type, and by the parts that they bound."""
    begin, *inner, _ = edges
    after = [sa.case((attempts.c.finished_at > sa.literal(edge, Moment()), 1), else_=0) for edge in inner]
    part = sum(after, start=sa.literal_column("0")).label("part")
    number = sa.func.count().label("number")
    statement = (
        sa.select(tasks.c.task_type, attempts.c.outcome, part, number)
        .join_from(attempts, tasks, tasks.c.task_id == attempts.c.task_id)
        .where(attempts.c.finished_at > sa.literal(begin, Moment()))
        .group_by(tasks.c.task_type, attempts.c.outcome, part)
    )
    by_type: dict[str, Counter[AttemptOutcome]] = {}
    completed, failed = Counter[int](), Counter[int]()
    for row in tx.plain(statement):
        outcome = AttemptOutcome(row.outcome)
        by_type.setdefault(row.task_type, Counter())[outcome] += row.number
        completed[row.part] += row.number if outcome == AttemptOutcome.COMPLETED else 0
        failed[row.part] += row.number if outcome in WENT_WRONG else 0
    dead = _dead_letters(tx, begin)
    ended = tuple(
        Ended(task_type=one, attempts=dict(by_type.get(one, {})), dead_letters=dead.get(one, 0))
        for one in sorted(by_type | dead)
    )
    slices = tuple(
        Slice(until=until, completed=completed[part], failed=failed[part]) for part, until in enumerate(edges[1:])
    )
    return ended, slices


def _dead_letters(tx: Tx, since: datetime) -> dict[str, int]:
    # The first clause is the words of the index, by which SQLite finds it.
    given_up = status_in({TaskStatus.CANCELLED, TaskStatus.FAILED})
    statement = (
        sa.select(tasks.c.task_type, sa.func.count())
        .where(
            given_up,
            one_of(tasks.c.status, sa.literal(TaskStatus.FAILED.value)),
            tasks.c.updated_at > sa.literal(since, Moment()),
        )
        .group_by(tasks.c.task_type)
    )
    return {row[0]: row[1] for row in tx.plain(statement)}


def _open_stalls(tx: Tx) -> int:
    statement = sa.select(sa.func.count()).select_from(stalls).where(stalls.c.closed_at.is_(None))
    return int(tx.plain(statement).scalar_one())
