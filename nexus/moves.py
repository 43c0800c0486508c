"""The record as a whole, wherever its parts stand: every attempt, and every move.

An attempt that goes on stands on its task, one that is over is a row. Of a claim under which somebody worked nothing
is written down as a move: that it was made, that the work began and that it was completed is read from its attempt.
So is the arrival of a task from the task. All else has its line in `nexus_history`.
"""

from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa

from nexus.predicates import Clause, is_held, status_in
from nexus.rows import Row
from nexus.schemas import Attempt
from nexus.sql import Moment
from nexus.states import AttemptOutcome, TaskStatus, Verb
from nexus.tables import attempts, history, tasks

Of = Callable[[sa.ColumnElement[str]], Clause]
"""From a column of task ids to whose record is asked for."""

COLUMNS: Final = ("task_id", "at", "verb", "from_status", "to_status", "actor", "claim_no", "reason", "waited_seconds")
"""Of a move, as `nexus_history` has them."""

_WORDS: Final = sa.Text()
_ORDER: Final = {"add": 0, "import": 0, Verb.CLAIM: 1, Verb.START: 2, Verb.COMPLETE: 3}
"""Under one claim number; what is not named here comes after these, in the order in which it was written."""


def _word(value: str) -> sa.ColumnElement[str]:
    return sa.literal_column(f"'{value}'", _WORDS)


def _nothing(kind: sa.types.TypeEngine[Any]) -> sa.ColumnElement[Any]:
    return sa.cast(sa.null(), kind)


def attempts_of(of: Of) -> sa.CompoundSelect[Any]:
    """Every attempt: first those that are over."""
    over = sa.select(*(attempts.c[name] for name in Attempt.model_fields)).where(of(attempts.c.task_id))
    return over.union_all(going_on().where(of(tasks.c.task_id)))


def going_on() -> sa.Select[Any]:
    """The attempts that are not over."""
    return sa.select(
        tasks.c.task_id,
        tasks.c.attempt_count.label("number"),
        tasks.c.claim_no,
        tasks.c.holder.label("agent_id"),
        _word(AttemptOutcome.RUNNING).label("outcome"),
        tasks.c.started_at,
        tasks.c.heartbeat_at,
        *(_nothing(attempts.c[name].type).label(name) for name in ("finished_at", "error", "result", "late_result")),
        tasks.c.note,
        tasks.c.run_ref,
    ).where(status_in({TaskStatus.IN_PROGRESS}))


def moves_of(of: Of) -> sa.CompoundSelect[Any]:
    """Every move, as `COLUMNS` and `seq`, which is NULL where no line was written. `in_order` sorts them."""
    written = sa.select(history.c.seq, *(history.c[name] for name in COLUMNS)).where(of(history.c.task_id))
    worked = sa.and_(of(attempts.c.task_id), attempts.c.claimed_at.is_not(None))
    led = sa.and_(
        of(attempts.c.task_id),
        attempts.c.outcome == _word(AttemptOutcome.COMPLETED),
        attempts.c.led_to.is_not(None),
    )
    held = sa.and_(of(tasks.c.task_id), is_held(), tasks.c.claimed_at.is_not(None))
    begun = sa.and_(held, status_in({TaskStatus.IN_PROGRESS}))
    arrived = sa.exists().where(
        history.c.task_id == tasks.c.task_id, history.c.verb.in_([_word("add"), _word("import")])
    )
    added = sa.and_(of(tasks.c.task_id), ~arrived)
    claim = Verb.CLAIM, TaskStatus.PENDING, TaskStatus.CLAIMED
    start = Verb.START, TaskStatus.CLAIMED, TaskStatus.IN_PROGRESS
    tried, there = attempts.c, tasks.c
    return written.union_all(
        _told(
            tried.task_id, tried.claimed_at, *claim, tried.agent_id, tried.claim_no, tried.waited_seconds
        ).where(worked),
        _told(tried.task_id, tried.started_at, *start, tried.agent_id, tried.claim_no).where(worked),
        _told(
            tried.task_id, tried.finished_at, Verb.COMPLETE, TaskStatus.IN_PROGRESS, tried.led_to,
            tried.agent_id, tried.claim_no,
        ).where(led),
        _told(there.task_id, there.claimed_at, *claim, there.holder, there.claim_no, there.waited_seconds).where(held),
        _told(there.task_id, there.started_at, *start, there.holder, there.claim_no).where(begun),
        _told(
            there.task_id, there.created_at, "add", None, TaskStatus.PENDING,
            there.added_by, sa.literal_column("0", sa.Integer()),
        ).where(added),
    )  # fmt: skip


def _told(
    task_id: sa.ColumnElement[str],
    at: sa.ColumnElement[Any],
    verb: str,
    source: str | None,
    target: str | sa.ColumnElement[Any],
    actor: sa.ColumnElement[Any],
    claim_no: sa.ColumnElement[int],
    waited_seconds: sa.ColumnElement[Any] | None = None,
) -> sa.Select[Any]:
    """One move for each row, in the order of `moves_of`."""
    return sa.select(
        _nothing(history.c.seq.type),
        task_id,
        at,
        _word(verb),
        _nothing(_WORDS) if source is None else _word(source),
        _word(target) if isinstance(target, str) else target,
        actor,
        claim_no,
        _nothing(_WORDS),
        _nothing(sa.Double()) if waited_seconds is None else waited_seconds,
    )


def in_order(moves: list[Row]) -> list[Row]:
    """The moves of one task as they were made: the claim number only grows, and what happens under one is known."""
    return sorted(moves, key=lambda row: (row.claim_no or 0, _ORDER.get(row.verb, len(_ORDER)), row.seq or 0))


def waits() -> sa.CompoundSelect[Any]:
    """Every waiting period on record: `task_id`, `at` which moment and by which `verb` it ended, `waited_seconds`."""
    ended = sa.select(history.c.task_id, history.c.at, history.c.verb, history.c.waited_seconds)
    claimed = _word(Verb.CLAIM).label("verb")
    worked = sa.select(attempts.c.task_id, attempts.c.claimed_at.label("at"), claimed, attempts.c.waited_seconds)
    held = sa.select(tasks.c.task_id, tasks.c.claimed_at.label("at"), claimed, tasks.c.waited_seconds)
    return ended.where(history.c.waited_seconds.is_not(None)).union_all(
        worked.where(attempts.c.waited_seconds.is_not(None)),
        held.where(is_held(), tasks.c.waited_seconds.is_not(None)),
    )


def made(task_id: str, verb: str, at: Any, claim_no: int | None) -> sa.Select[Any]:
    """A row where this very move was made: no other transaction can have made it then, under that claim."""
    moves = moves_of(lambda column: column == task_id).subquery()
    return sa.select(sa.literal(1)).where(
        moves.c.verb == str(verb), moves.c.at == sa.literal(at, Moment()), moves.c.claim_no == claim_no
    )
