"""What every move shares: the guard from the table of legal moves, the refusal, and what a move leaves behind."""

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from nexus import records, waiting
from nexus.engine import Tx
from nexus.errors import ClaimLost, IllegalTransition, NexusError, TaskNotFound
from nexus.predicates import is_held, status_in
from nexus.rows import Row
from nexus.schemas import Claim
from nexus.sql import among, among_numbers, now, one_of
from nexus.states import HELD, TERMINAL, TRANSITIONS, AttemptOutcome, TaskStatus, Verb, verbs_from
from nexus.tables import attempts, dependencies, tasks
from nexus.values import dump_json

LATEST = sa.case((tasks.c.available_at < now(), now()), else_=tasks.c.available_at)

LEFT = tuple(
    tasks.c[name]
    for name in (
        "seq",
        "task_id",
        "claim_no",
        "status",
        "previous_status",
        "previous_stall_id",
        "stall_id",
        "overdue_id",
        "updated_at",
    )
)
"""What `leave_traces` reads of a moved task: the few columns that a move of thousands brings back."""


def left_of(moved: sa.FromClause) -> list[sa.ColumnElement[Any]]:
    """The same of moved tasks in a statement, which tells their `seq` anyway."""
    return [moved.c[column.name] for column in LEFT if column.name != "seq"]


FREE = {"lease_expires_at": None, "lease_seconds": None}
WAITING = {
    **FREE,
    "status": TaskStatus.PENDING.value,
    "pending_since": now(),
    "available_at": LATEST,
    "claimed_by": None,
}


def ended(status: TaskStatus) -> dict[str, Any]:
    """The values of a task that is no longer held, nor offered."""
    return {**FREE, "status": status.value, "pending_since": None}


def guarded(verb: Verb, *, is_found: bool = False) -> sa.Update:
    """UPDATE tasks WHERE the table of legal moves allows `verb`; the waiting period's stall ends with it.

    `is_found`: other clauses name the rows, so that no index is to be used for this one.
    """
    sources = TRANSITIONS[verb].sources
    allowed: sa.ColumnElement[bool] = status_in(sources)
    if is_found:
        allowed = one_of(tasks.c.status, *(sa.literal_column(f"'{status}'") for status in sorted(sources)))
    return (
        sa.update(tasks)
        .where(allowed)
        .values(
            previous_status=tasks.c.status, previous_stall_id=tasks.c.stall_id, stall_id=sa.null(), updated_at=now()
        )
    )


def one(verb: Verb) -> sa.Update:
    """The guarded UPDATE of the task bound to `p_task_id`."""
    return guarded(verb).where(tasks.c.task_id == sa.bindparam("p_task_id")).returning(*tasks.c)


def fenced(verb: Verb) -> sa.Update:
    """The same for the holder of the claim whose number is bound to `p_claim_no`."""
    assert TRANSITIONS[verb].fenced
    return one(verb).where(tasks.c.claim_no == sa.bindparam("p_claim_no"))


def fenced_many(verb: Verb, shown: sa.FromClause) -> sa.Update:
    """The guarded UPDATE of the tasks whose current claims are `shown`."""
    assert TRANSITIONS[verb].fenced
    return guarded(verb, is_found=True).where(tasks.c.task_id == shown.c.task_id, tasks.c.claim_no == shown.c.claim_no)


def moved(tx: Tx, verb: Verb, statement: sa.Update, who: Claim | str, **parameters: Any) -> Row:
    """Run a statement for one task; its row, or the error that says why it moved nothing."""
    task_id = who.task_id if isinstance(who, Claim) else who
    if isinstance(who, Claim):
        parameters["p_claim_no"] = who.claim_no
    row = tx.run(statement, p_task_id=task_id, **parameters).one_or_none()
    if row is None:
        raise refusal(tx, verb, who)
    return row


def refusal(tx: Tx, verb: Verb, who: Claim | str) -> NexusError:
    """Why `verb` is not possible now, for the holder of a claim or for anybody."""
    task_id = who.task_id if isinstance(who, Claim) else who
    row = tx.plain(sa.select(tasks).where(tasks.c.task_id == task_id)).one_or_none()
    if row is None:
        return TaskNotFound(task_id)
    status = TaskStatus(row.status)
    if isinstance(who, Claim) and not (row.claim_no == who.claim_no and _is_own_doing(tx, who, status)):
        if row.claim_no != who.claim_no and status in HELD:
            held = f"{row.claimed_by} holds claim {row.claim_no}"
        else:
            held = f"the task is {status}" + (f" ({row.reason})" if row.reason else "")
        return ClaimLost(task_id, who.claim_no, now_held=held)
    return IllegalTransition(task_id, verb, status, allowed=verbs_from(status))


def _is_own_doing(tx: Tx, claim: Claim, status: TaskStatus) -> bool:
    """The claim is current: still held, or ended by its own holder rather than taken away."""
    if status in HELD:
        return True
    outcome = tx.plain(
        sa.select(attempts.c.outcome).where(attempts.c.task_id == claim.task_id, attempts.c.claim_no == claim.claim_no)
    ).scalar()
    # Not timed_out: that is the sweep's word as well, and a result that comes later cost somebody money.
    return outcome in (AttemptOutcome.COMPLETED, AttemptOutcome.FAILED)


def leave_traces(tx: Tx, verb: Verb, rows: Sequence[Row], *, actor: str | None, reason: str | None = None) -> None:
    """What every move leaves behind: `write_history`, and `follow`."""
    records.write_history(tx, verb, rows, actor=actor, reason=reason)
    follow(tx, verb, rows, actor)


def follow(tx: Tx, verb: Verb, rows: Sequence[Row], actor: str | None) -> None:
    """What a move leaves behind but its history.

    The stall that it ends is closed, and the escalation of that with it; what depended on a task that
    has ended failed or cancelled goes the way that its setting says.
    """
    if gone := _gone(tx, verb, rows, actor):
        settle_dependants(tx, gone)
    # What failed is offered after a while; everything else that comes back is offered now.
    if verb is not Verb.FAIL and any(row.status == TaskStatus.PENDING for row in rows):
        records.ring(tx)


def _gone(tx: Tx, verb: Verb, rows: Sequence[Row], actor: str | None) -> list[str]:
    """Close what is over; the tasks that have ended without success, these and those that asked about them."""
    over = [row.previous_stall_id for row in rows if row.stall_id is None]
    over += [row.overdue_id for row in rows if row.status in TERMINAL]
    gone = [row.task_id for row in rows if row.status in (TaskStatus.FAILED, TaskStatus.CANCELLED)]
    return gone + _close(tx, verb, over, actor)


def _close(tx: Tx, verb: Verb, stall_ids: Iterable[int | None], actor: str | None) -> list[str]:
    over = [stall_id for stall_id in stall_ids if stall_id is not None]
    if not over:
        return []
    waiting.close_stalls(tx, over, verb)
    return withdraw(tx, over, actor, f"moved on ({verb})")


def close_over(tx: Tx, verb: Verb, stall_ids: Iterable[int | None], actor: str | None) -> None:
    """These stalls (None: there was none) ended with the move of their tasks."""
    if gone := _close(tx, verb, stall_ids, actor):
        settle_dependants(tx, gone)


def withdraw(tx: Tx, stall_ids: Sequence[int], mover: str | None, why: str) -> list[str]:
    """Close the escalations of stalls that are over; the ids of those that were open. `why`: what the source did.

    Whoever moved the source while holding its escalation gets to finish that: it is what they were asked for.
    """
    statement = guarded(Verb.CANCEL).where(among_numbers(tasks.c.escalates, "stalls"))
    if mover is not None:
        statement = statement.where(~sa.and_(is_held(), tasks.c.claimed_by == sa.bindparam("p_mover")))
    reason = sa.func.coalesce(tasks.c.related_task_id, "its task") + sa.literal(f" {why}")
    values = {**ended(TaskStatus.CANCELLED), "reason": reason}
    parameters = {"stalls": dump_json(list(stall_ids))} | ({"p_mover": mover} if mover is not None else {})
    rows = tx.run(statement.values(values).returning(*LEFT), **parameters).all()
    if not rows:
        return []
    records.close_attempts(tx, rows, AttemptOutcome.CANCELLED, error=f"its source {why}")
    records.write_history(tx, Verb.CANCEL, rows, actor="nexus", reason=f"its source {why}")
    return _gone(tx, Verb.CANCEL, rows, "nexus")


def _dependants_of_batch(*, some: bool) -> sa.Select[Any]:
    """Who depends on the bound `batch`; of `some`, those in the bound `only`."""
    found = sa.select(dependencies.c.task_id).where(among(dependencies.c.depends_on, "batch"))
    return found.where(among(dependencies.c.task_id, "only")) if some else found


def _dependants_freed(*, some: bool = False) -> sa.Update:
    met = (
        sa.select(sa.func.count())
        .where(dependencies.c.task_id == tasks.c.task_id, among(dependencies.c.depends_on, "batch"))
        .scalar_subquery()
    )
    return (
        sa.update(tasks)
        .where(tasks.c.task_id.in_(_dependants_of_batch(some=some)))
        .values(
            unmet_dependencies=tasks.c.unmet_dependencies - met,
            # Waiting is counted from when the last of them was done.
            available_at=sa.case((tasks.c.unmet_dependencies <= met, LATEST), else_=tasks.c.available_at),
        )
    )


def free_dependants(tx: Tx, task_ids: Sequence[str]) -> None:
    """Count down what waits for these tasks, which are completed.

    A statement of its own, after their rows are locked: an edge that was added meanwhile has waited for that
    lock (`queries.hold_still`) and has seen the new status, or is visible here.
    """
    if tx.run(_dependants_freed(), batch=dump_json(list(task_ids))).rowcount:
        records.ring(tx)


def settle_dependants(tx: Tx, task_ids: Iterable[str], *, only: Sequence[str] | None = None) -> None:
    """These ended failed or cancelled: what depends on them waits, is cancelled, or runs anyway, as its setting says.

    `only`: these of their dependants, which came to depend on them now. The others went their way when the
    tasks ended, and what became of them since (an operator's retry) stands.

    A wave at a time, since what is cancelled has dependants of its own.
    """
    wave, some = list(task_ids), only is not None
    while wave:
        batch = {"batch": dump_json(wave)} | ({"only": dump_json(list(only or ()))} if some else {})
        _run_dependants(tx, batch, some=some)
        wave, some = _cancel_dependants(tx, batch, some=some), False


def _run_dependants(tx: Tx, batch: dict[str, str], *, some: bool) -> None:
    runs = tasks.c.on_dependency_failure == "run"
    if tx.run(_dependants_freed(some=some).where(runs), **batch).rowcount:
        records.ring(tx)
        # The edge is gone, so that a later success of the same task does not count it down once more.
        met = among(dependencies.c.depends_on, "batch")
        anyway = dependencies.c.task_id.in_(sa.select(tasks.c.task_id).where(runs))
        over = sa.delete(dependencies).where(met, anyway)
        tx.run(over.where(among(dependencies.c.task_id, "only")) if some else over, **batch)


def _cancel_dependants(tx: Tx, batch: dict[str, str], *, some: bool) -> list[str]:
    target = (
        sa.select(sa.func.min(dependencies.c.depends_on))
        .where(dependencies.c.task_id == tasks.c.task_id, among(dependencies.c.depends_on, "batch"))
        .scalar_subquery()
    )
    statement = (
        guarded(Verb.CANCEL)
        .where(
            tasks.c.task_id.in_(_dependants_of_batch(some=some)),
            tasks.c.on_dependency_failure == "cancel",
            # Whoever holds or reviews it already got past its dependencies.
            status_in({TaskStatus.PENDING, TaskStatus.BLOCKED, TaskStatus.STALLED}),
        )
        .values(
            {
                **ended(TaskStatus.CANCELLED),
                "reason": sa.literal("it depended on ") + target + ", which ended without success",
            }
        )
        .returning(*LEFT)
    )
    rows = tx.run(statement, **batch).all()
    why = "a task that it depended on ended without success"
    records.write_history(tx, Verb.CANCEL, rows, actor="nexus", reason=why)
    return _gone(tx, Verb.CANCEL, rows, "nexus")
