"""The life of a claim after it began: renewed, and ended by its holder."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache, lru_cache
from operator import itemgetter
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from nexus import records
from nexus.engine import Tx
from nexus.predicates import status_in
from nexus.prepared import Prepared
from nexus.retry import RetryDecision
from nexus.rows import FIELDS, ClaimKey, Row, as_kept, fields_of, moment_of
from nexus.schemas import Claim
from nexus.sql import later, now, one_of
from nexus.states import HELD, AttemptOutcome, TaskStatus, Verb
from nexus.tables import tasks
from nexus.transitions.compound import Compound, done_by, showing, shown
from nexus.transitions.core import (
    FREE,
    WAITING,
    close_over,
    ended,
    fenced,
    fenced_many,
    free_dependants,
    leave_traces,
    moved,
)


@cache
def _heartbeat() -> sa.Update:
    """No move: the claim stays where it is and holds longer."""
    held_by_claim = sa.and_(
        status_in(HELD),
        tasks.c.task_id == sa.bindparam("p_task_id"),
        tasks.c.claim_no == sa.bindparam("p_claim_no"),
    )
    lease: sa.ColumnElement[float] = sa.func.coalesce(sa.bindparam("p_lease", type_=sa.Double()), tasks.c.lease_seconds)
    return (
        sa.update(tasks)
        .where(held_by_claim)
        .values(
            lease_seconds=lease,
            lease_expires_at=later(now(), lease),
            heartbeat_at=now(),
            note=sa.func.coalesce(sa.bindparam("p_note", type_=sa.Text()), tasks.c.note),
        )
        .returning(tasks.c.lease_expires_at)
    )


def heartbeat(tx: Tx, held: Claim, note: str | None, lease_seconds: float | None) -> Row | None:
    """Extend the lease; the row with its new end, or None where the claim is no longer current."""
    said = {"p_task_id": held.task_id, "p_claim_no": held.claim_no, "p_lease": lease_seconds, "p_note": note}
    return tx.run(_heartbeat(), **said).one_or_none()


class _Words(FunctionElement[str]):
    """The text that a JSON value is."""

    type = sa.Text()
    inherit_cache = True


@compiles(_Words, "sqlite")
def _words_sqlite(element: _Words, compiler: SQLCompiler, **kw: Any) -> str:
    return f"({compiler.process(element.clauses, **kw)} ->> '$')"


@compiles(_Words, "postgresql")
def _words_postgresql(element: _Words, compiler: SQLCompiler, **kw: Any) -> str:
    return f"({compiler.process(element.clauses, **kw)} #>> '{{}}')"


@cache
def _heartbeats() -> Prepared:
    """The same for many. A task whose row somebody has locked is left as it is: no claim waits for another's."""
    listed = shown()
    current = tasks.c.task_id == listed.c.task_id, tasks.c.claim_no == listed.c.claim_no
    free = (
        sa.select(tasks.c.seq, tasks.c.claim_no, _Words(listed.c.value).label("note"))
        .where(*current, _held_of_these())
        .with_for_update(of=tasks, key_share=True, skip_locked=True)
        .cte("free")
    )
    renewed = (
        sa.update(tasks)
        .where(tasks.c.seq == free.c.seq, tasks.c.claim_no == free.c.claim_no, _held_of_these())
        .values(
            lease_expires_at=later(now(), tasks.c.lease_seconds),
            heartbeat_at=now(),
            note=sa.func.coalesce(free.c.note, tasks.c.note),
        )
    )
    return Prepared(renewed.returning(tasks.c.task_id, tasks.c.claim_no, as_kept(tasks.c.lease_expires_at)))


def _held_of_these() -> sa.ColumnElement[bool]:
    """Somebody holds a claim on it, asked of tasks that are found by their ids."""
    return one_of(tasks.c.status, *(sa.literal_column(f"'{status}'") for status in sorted(HELD)))


def heartbeat_many(tx: Tx, beats: Sequence[tuple[Claim, str | None]]) -> dict[tuple[str, int], datetime]:
    """Extend the leases of these claims, each with a note; until when, by task and claim, of those that could be."""
    rows = _heartbeats().rows(tx, showing(tx, beats))
    return {(row.task_id, row.claim_no): moment_of(row.lease_expires_at) for row in rows}


@lru_cache(maxsize=4)
def _complete(*, whole: bool, alone: bool) -> Compound:
    listed = shown()
    review = (tasks.c.requires_review, sa.literal_column(f"'{TaskStatus.IN_REVIEW}'", sa.Text()))
    move = fenced_many(Verb.COMPLETE, listed).values(
        **FREE,
        status=sa.case(review, else_=sa.literal_column(f"'{TaskStatus.COMPLETED}'", sa.Text())),
        result=listed.c.value,
        error=sa.null(),
        reason=sa.null(),
    )
    if alone:
        move = move.where(~tasks.c.awaited, tasks.c.overdue_id.is_(None))

    def beside(moved: sa.FromClause) -> list[sa.Insert]:
        return [records.tried(moved, AttemptOutcome.COMPLETED, result=moved.c.result)]

    return Compound(Verb.COMPLETE, move, beside, lambda moved: _told(moved, whole=whole))


OVERDUE, AWAITED, TASK = 1, 2, 3
"""Where in such a row the stall of its deadline stands, whether others wait for it, and its task id."""

_FEW: Final = ("task_id", "claim_no", "status", "updated_at")

_claim_of = {
    whole: itemgetter(TASK, TASK + names.index("claim_no")) for whole, names in ((True, FIELDS), (False, _FEW))
}
"""The claim that such a row tells of: many may be shown on one task, but only one is current."""


def _told(moved: sa.FromClause, *, whole: bool) -> list[sa.ColumnElement[Any]]:
    few = (as_kept(moved.c[name]) for name in _FEW)
    return [moved.c.overdue_id, moved.c.awaited, *(fields_of(moved) if whole else few)]


def completed(tx: Tx, claims: Sequence[Claim], *, whole: bool) -> dict[ClaimKey, Row]:
    """As `complete` says it, of those that are completed under these claims: by somebody whose answer was lost."""
    rows = tx.plain(
        done_by(Verb.COMPLETE, tasks.c.seq, *_told(tasks, whole=whole)),
        showing(tx, [(claim, None) for claim in claims]),
    )
    key = _claim_of[whole]
    return {key(row): row for row in rows}


def complete(
    tx: Tx, results: Sequence[tuple[Claim, Any]], *, whole: bool = False, alone: bool = False
) -> dict[ClaimKey, Row]:
    """Close attempts with their results; the tasks are completed, or in review where they ask for one.

    A row of each that was, by task and claim number: its `status`, with `whole` all of its `fields_of`, from `TASK` on.
    `alone`: nothing else is written in this transaction, so only what leaves nothing else to write is completed
    (no task that another waits for, none past its deadline).
    """
    rows = _complete(whole=whole, alone=alone).run(tx, showing(tx, results))
    if not alone and (more := [row for row in rows if row[OVERDUE] or row[AWAITED]]):
        _follow(tx, [row for row in more if row.status == TaskStatus.COMPLETED], results)
    key = _claim_of[whole]
    return {key(row): row for row in rows}


def _follow(tx: Tx, rows: Sequence[Row], results: Sequence[tuple[Claim, Any]]) -> None:
    """What else the end of these brings: who waited for them is freed, and nobody asks about their deadlines."""
    if not rows:
        return
    agent = {(claim.task_id, claim.claim_no): claim.agent_id for claim, _ in results}
    late: dict[str, list[int | None]] = {}
    for row in rows:
        late.setdefault(agent[row.task_id, row.claim_no], []).append(row.overdue_id)
    for mover, stall_ids in late.items():
        close_over(tx, Verb.COMPLETE, stall_ids, mover)
    if awaited := [row.task_id for row in rows if row.awaited]:
        free_dependants(tx, awaited)


def fail(tx: Tx, held: Claim, decision: RetryDecision, error: str, *, timed_out: bool, actor: str | None = None) -> Row:
    """Close the attempt with its error; the task is offered again later, or is a dead letter.

    `actor` is who says so, where that is not the holder.
    """
    counted = fenced(Verb.FAIL).values(failure_count=tasks.c.failure_count + 1, error=error)
    if decision.again:
        statement = counted.values(
            {**WAITING, "available_at": later(now(), sa.literal(decision.delay_seconds, sa.Double()))}
        )
    else:
        statement = counted.values(ended(TaskStatus.FAILED))
    row = moved(tx, Verb.FAIL, statement, held)
    records.close_attempts(tx, [row], AttemptOutcome.TIMED_OUT if timed_out else AttemptOutcome.FAILED, error=error)
    leave_traces(tx, Verb.FAIL, [row], actor=actor or held.agent_id, reason=f"{decision.why}: {error}")
    return row


def release(tx: Tx, held: Claim, reason: str | None) -> Row:
    """Hand the task back; it is offered at once and no failure is counted."""
    # A reviewer's note stays: it is for the next attempt that gets to work.
    kept = sa.func.coalesce(tasks.c.reason, sa.bindparam("p_reason", type_=sa.Text()))
    row = moved(tx, Verb.RELEASE, fenced(Verb.RELEASE).values({**WAITING, "reason": kept}), held, p_reason=reason)
    records.close_attempts(tx, [row], AttemptOutcome.RELEASED, error=reason)
    leave_traces(tx, Verb.RELEASE, [row], actor=held.agent_id, reason=reason)
    return row
