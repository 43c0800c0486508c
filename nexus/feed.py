"""What moved lately, on the whole board, for those who look on: `nexus watch`, and whoever tells others.

Each look costs what moved since the last one, not what stands there: ended attempts are found by the end of their
index, lines of the history and new tasks by their numbers, and what is held is little. A move that a transaction of
longer than `OVERLAP` made known may be missed: this is a view, and the record (`nexus.moves`) is complete.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from nexus.engine import Database, Tx
from nexus.predicates import Clause, is_held
from nexus.reports import Move, News, Place
from nexus.rows import Row
from nexus.sql import Moment
from nexus.states import AttemptOutcome, TaskStatus, Verb
from nexus.tables import attempts, history, tasks

OVERLAP: Final = timedelta(seconds=10)
"""How far each look goes back behind the one before: a transaction is seen when it commits, its moves are older."""

MOST: Final = 2000
"""Moves of a kind that one look brings, the newest; the others are counted."""

_TASK: Final = (tasks.c.task_type, tasks.c.tags, tasks.c.episode_id)
_CLAIM: Final = Verb.CLAIM, TaskStatus.PENDING, TaskStatus.CLAIMED
_START: Final = Verb.START, TaskStatus.CLAIMED, TaskStatus.IN_PROGRESS


class Feed:
    """New moves, a look at a time, each once. For one thread."""

    def __init__(self, database: Database, place: Place) -> None:
        self._database = database
        self.place = place
        """How far it has looked; a feed that begins there goes on, and repeats the last `OVERLAP` at most."""
        self._seen: dict[tuple[str, int, str, datetime], datetime] = {}

    def read(self, most: int = MOST) -> News:
        """What moved since the last look, oldest first."""
        news, self.place = self._database.read(lambda tx: _look(tx, self.place, most))
        fresh = [move for move in news.moves if move.key not in self._seen]
        since = self.place.at - OVERLAP
        self._seen = {key: at for key, at in self._seen.items() if at > since}
        self._seen |= {move.key: move.at for move in fresh}
        return news.model_copy(update={"moves": tuple(fresh)})


def place_at(tx: Tx, since: datetime | None) -> Place:
    """Where a feed begins that is to bring what moved after `since`; None is the present."""
    present = tx.present()
    at = min(present, since or present)
    return Place(at=at, line=_before(tx, history.c.seq, history.c.at, at, 0), task=_last_task(tx, at, since is None))


def _last_task(tx: Tx, at: datetime, is_now: bool) -> int:
    if is_now:
        return int(tx.plain(sa.select(sa.func.coalesce(sa.func.max(tasks.c.seq), 0))).scalar_one())
    return _before(tx, tasks.c.seq, tasks.c.created_at, at, 0)


def _look(tx: Tx, place: Place, most: int) -> tuple[News, Place]:
    present, since = tx.present(), place.at - OVERLAP
    place = _still(tx, place)
    ended, unsaid = _newest(tx, _ended(since), most, place.at, attempts.c.finished_at)
    lines, silent = _newest(tx, _lines(place), most, place.at, history.c.at, history.c.seq > place.line)
    added, unnamed = _newest(tx, _added(place), most, place.at, tasks.c.created_at, tasks.c.seq > place.task)
    held = list(tx.plain(_held()))
    read = [move for move in (*_of_attempts(ended), *_of_claims(held)) if move.at > since]
    moves = {move.key: move for move in (*read, *_of_lines(lines), *_of_tasks(added))}
    behind = present - OVERLAP
    then = Place(
        at=present,
        line=_before(tx, history.c.seq, history.c.at, behind, place.line),
        task=_before(tx, tasks.c.seq, tasks.c.created_at, behind, place.task),
    )
    left_out = unsaid + silent + unnamed
    return News(moves=tuple(sorted(moves.values(), key=lambda move: move.order)), left_out=left_out), then


def _still(tx: Tx, place: Place) -> Place:
    """The place, or one before it: SQLite gives the numbers of what was deleted last (`nexus.pruning`) once more."""
    line = _before(tx, history.c.seq, history.c.at, place.at, 0)
    task = _before(tx, tasks.c.seq, tasks.c.created_at, place.at, 0)
    return Place(at=place.at, line=min(place.line, line), task=min(place.task, task))


def _newest(
    tx: Tx, statement: sa.Select[Any], most: int, at: datetime, moment: sa.Column[Any], *there: Clause
) -> tuple[list[Row], int]:
    """The newest rows, and how many more are newer than the last look, which was `at`."""
    rows = list(tx.plain(statement.limit(most + 1)))
    if len(rows) <= most:
        return rows, 0
    newer = sa.select(sa.func.count()).where(*there, moment > sa.literal(at, Moment()))
    told = sum(getattr(row, moment.name) > at for row in rows[:most])
    return rows[:most], int(tx.plain(newer).scalar_one()) - told


def _before(tx: Tx, number: sa.Column[Any], moment: sa.Column[Any], at: datetime, least: int) -> int:
    """The last number whose row is not newer than `at`; it is looked for from the end, down to `least`."""
    clauses = number > least, moment <= sa.literal(at, Moment())
    found = tx.plain(sa.select(number).where(*clauses).order_by(number.desc()).limit(1)).scalar()
    return least if found is None else int(found)


def _ended(since: datetime) -> sa.Select[Any]:
    """Attempts that are over: of each the claim, the start and, where it went well, the completion."""
    tried = attempts.c
    columns = (
        tried.task_id, tried.number, tried.claim_no, tried.agent_id, tried.outcome, tried.claimed_at,
        tried.started_at, tried.finished_at, tried.waited_seconds, tried.led_to, tried.run_ref,
    )  # fmt: skip
    return (
        sa.select(*columns, *_TASK)
        .join_from(attempts, tasks, tasks.c.task_id == tried.task_id)
        .where(tried.finished_at > sa.literal(since, Moment()))
        .order_by(tried.finished_at.desc())
    )


def _lines(place: Place) -> sa.Select[Any]:
    """What was written as a move; the attempt that it ended has its number and its run."""
    said, tried = history.c, attempts.c
    columns = (
        said.task_id, said.at, said.verb, said.from_status, said.to_status, said.actor, said.claim_no, said.reason,
        said.waited_seconds, tried.number, tried.agent_id, tried.run_ref, tried.error, tasks.c.error.label("ended_by"),
    )  # fmt: skip
    return (
        sa.select(*columns, *_TASK)
        .join_from(history, tasks, tasks.c.task_id == said.task_id)
        .outerjoin(attempts, sa.and_(tried.task_id == said.task_id, tried.claim_no == said.claim_no))
        .where(said.seq > place.line)
        .order_by(said.seq.desc())
    )


def _added(place: Place) -> sa.Select[Any]:
    """New tasks whose arrival is no line of the history."""
    there = tasks.c
    arrived = sa.exists().where(history.c.task_id == there.task_id, history.c.verb.in_(["add", "import"]))
    columns = (there.task_id, there.created_at, there.added_by)
    return (
        sa.select(*columns, there.task_type, there.tags, there.episode_id)
        .where(there.seq > place.task, ~arrived)
        .order_by(there.seq.desc())
    )


def _held() -> sa.Select[Any]:
    """The claims that go on."""
    there = tasks.c
    columns = (
        there.task_id, there.status, there.attempt_count, there.claim_no, there.holder, there.claimed_at,
        there.started_at, there.waited_seconds, there.run_ref,
    )  # fmt: skip
    return sa.select(*columns, *_TASK).where(is_held()).order_by(there.claimed_by, there.lease_expires_at)


def _of(row: Row, **values: Any) -> Move:
    task = {name: getattr(row, name) for name in ("task_id", "task_type", "episode_id")}
    return Move.model_construct(**task, tags=tuple(row.tags), **values)


def _step(row: Row, step: tuple[Verb, TaskStatus, TaskStatus], at: datetime, who: str, number: int) -> Move:
    verb, source, target = step
    return _of(
        row, at=at, verb=str(verb), from_status=source, to_status=target, actor=who, agent_id=who,
        claim_no=row.claim_no, attempt=number, waited_seconds=row.waited_seconds if verb is Verb.CLAIM else None,
        run_ref=None if verb is Verb.CLAIM else row.run_ref,
    )  # fmt: skip


def _of_attempts(rows: Iterable[Row]) -> Iterator[Move]:
    for row in rows:
        if row.claimed_at is not None:
            yield _step(row, _CLAIM, row.claimed_at, row.agent_id, row.number)
            yield _step(row, _START, row.started_at, row.agent_id, row.number)
        if row.outcome == AttemptOutcome.COMPLETED and row.led_to is not None:
            step = Verb.COMPLETE, TaskStatus.IN_PROGRESS, TaskStatus(row.led_to)
            yield _step(row, step, row.finished_at, row.agent_id, row.number)


def _of_claims(rows: Iterable[Row]) -> Iterator[Move]:
    for row in rows:
        if row.claimed_at is not None:
            begun = row.status == TaskStatus.IN_PROGRESS
            number = row.attempt_count + (not begun)
            yield _step(row, _CLAIM, row.claimed_at, row.holder, number)
            if begun:
                yield _step(row, _START, row.started_at, row.holder, number)


def _of_lines(rows: Iterable[Row]) -> Iterator[Move]:
    for row in rows:
        source, target = (status and TaskStatus(status) for status in (row.from_status, row.to_status))
        yield _of(
            row, at=row.at, verb=row.verb, from_status=source, to_status=target, actor=row.actor,
            agent_id=row.agent_id, claim_no=row.claim_no, attempt=row.number, run_ref=row.run_ref,
            reason=row.reason or row.error or (row.ended_by if target == TaskStatus.FAILED else None),
            waited_seconds=row.waited_seconds,
        )  # fmt: skip


def _of_tasks(rows: Iterable[Row]) -> Iterator[Move]:
    for row in rows:
        yield _of(row, at=row.created_at, verb="add", to_status=TaskStatus.PENDING, actor=row.added_by, claim_no=0)
