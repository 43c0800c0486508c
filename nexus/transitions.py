"""Every statement that moves a task. The only code that assigns `status`.

Each verb is one guarded UPDATE: its WHERE names the states that `TRANSITIONS` allows and, for the holder's
verbs, the current `claim_no`; whoever's UPDATE finds no row has lost, and `refusal` says why. RETURNING gives
the moved rows, `previous_status` in them where they came from. The caller's transaction holds all of a verb.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from nexus import records
from nexus.engine import Tx
from nexus.errors import ClaimLost, IllegalTransition, NexusError, TaskNotFound
from nexus.predicates import (
    Clause,
    is_due,
    is_expired,
    is_waiting,
    status_in,
    suits,
    waits_longer_than,
    wanted,
)
from nexus.records import Row
from nexus.retry import RetryDecision
from nexus.schemas import Claim
from nexus.sql import among, later, now
from nexus.states import HELD, TRANSITIONS, AttemptOutcome, TaskStatus, Verb, verbs_from
from nexus.tables import attempts, dependencies, tasks
from nexus.values import dump_json

_LATEST = sa.case((tasks.c.available_at < now(), now()), else_=tasks.c.available_at)

_FREE = {"lease_expires_at": None, "lease_seconds": None}
_WAITING = {
    **_FREE,
    "status": TaskStatus.PENDING.value,
    "pending_since": now(),
    "available_at": _LATEST,
    "claimed_by": None,
}


def _ended(status: TaskStatus) -> dict[str, Any]:
    return {**_FREE, "status": status.value, "pending_since": None}


def _guarded(verb: Verb) -> sa.Update:
    """UPDATE tasks WHERE the table of legal moves allows `verb`."""
    return (
        sa.update(tasks)
        .where(status_in(TRANSITIONS[verb].sources))
        .values(previous_status=tasks.c.status, updated_at=now())
        .returning(*tasks.c)
    )


def _one(verb: Verb) -> sa.Update:
    return _guarded(verb).where(tasks.c.task_id == sa.bindparam("p_task_id"))


def _fenced(verb: Verb) -> sa.Update:
    assert TRANSITIONS[verb].fenced
    return _one(verb).where(tasks.c.claim_no == sa.bindparam("p_claim_no"))


def _batch(verb: Verb) -> sa.Update:
    return _guarded(verb).where(among(tasks.c.task_id, "batch"))


def _moved(tx: Tx, verb: Verb, statement: sa.Update, who: Claim | str, **parameters: Any) -> Row:
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
    return outcome in (AttemptOutcome.COMPLETED, AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT)


@cache
def _claim(**wishes: bool) -> sa.Update:
    clauses: list[Clause] = [is_waiting(), is_due(), suits(), *wanted(**wishes)]
    picked = (
        sa.select(tasks.c.seq)
        .where(*clauses)
        .order_by(tasks.c.priority, tasks.c.available_at, tasks.c.seq)
        .limit(sa.bindparam("limit", type_=sa.Integer()))
        # Who wants just one task waits for its lock, which may be held by somebody who only depends on it.
        .with_for_update(skip_locked=not wishes["task_id"])
        .cte("picked")
    )
    return (
        _guarded(Verb.CLAIM)
        .where(tasks.c.seq.in_(sa.select(picked.c.seq)))
        .values(
            status=TaskStatus.CLAIMED.value,
            pending_since=None,
            claim_no=tasks.c.claim_no + 1,
            claimed_by=sa.bindparam("agent_id", type_=sa.Text()),
            lease_seconds=sa.bindparam("p_lease", type_=sa.Double()),
            lease_expires_at=later(now(), sa.bindparam("p_lease", type_=sa.Double())),
        )
    )


def claim(
    tx: Tx,
    agent_id: str,
    capabilities: Sequence[str],
    limit: int,
    lease_seconds: float,
    wishes: dict[str, Any],
) -> list[Row]:
    """Take up to `limit` claimable tasks, first by priority, then by how long they wait.

    `wishes` are values for the names of `predicates.wanted`; None is no wish. Rows that another claim has
    locked are skipped, so claims do not wait for one another; only the claim of one certain task waits.
    """
    flags = {name: value is not None for name, value in wishes.items()}
    bound = {f"p_{name}": value for name, value in wishes.items() if value is not None}
    flags["episode"] = flags.pop("episode_id")
    rows = tx.run(
        _claim(**flags),
        agent_id=agent_id,
        capabilities=dump_json(list(capabilities)),
        limit=limit,
        p_lease=lease_seconds,
        **bound,
    ).all()
    records.write_history(tx, Verb.CLAIM, rows, actor=agent_id)
    return sorted(rows, key=lambda row: (row.priority, row.available_at, row.seq))


@cache
def _start() -> sa.Update:
    return _fenced(Verb.START).values(
        status=TaskStatus.IN_PROGRESS.value,
        attempt_count=tasks.c.attempt_count + 1,
        lease_expires_at=later(now(), tasks.c.lease_seconds),
    )


def start(tx: Tx, held: Claim, run_ref: Any) -> tuple[Row, Row]:
    """Begin the attempt; the task's row and the attempt's."""
    row = _moved(tx, Verb.START, _start(), held)
    attempt = records.open_attempt(tx, row, held.agent_id, run_ref)
    records.write_history(tx, Verb.START, [row], actor=held.agent_id)
    return row, attempt


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
        .values(lease_seconds=lease, lease_expires_at=later(now(), lease))
        .returning(tasks.c.lease_expires_at)
    )


def heartbeat(tx: Tx, held: Claim, note: str | None, lease_seconds: float | None) -> Row | None:
    """Extend the lease; the row with its new end, or None where the claim is no longer current."""
    row = tx.run(_heartbeat(), p_task_id=held.task_id, p_claim_no=held.claim_no, p_lease=lease_seconds).one_or_none()
    if row is not None:
        records.beat(tx, held.task_id, held.claim_no, note)
    return row


@cache
def _complete() -> sa.Update:
    return _fenced(Verb.COMPLETE).values(
        **_FREE,
        status=sa.case((tasks.c.requires_review, TaskStatus.IN_REVIEW.value), else_=TaskStatus.COMPLETED.value),
        result=sa.bindparam("p_result", type_=tasks.c.result.type),
        error=None,
        reason=None,
    )


def complete(tx: Tx, held: Claim, result: Any) -> Row:
    """Close the attempt with its result; the task is completed, or in review where it asks for one."""
    row = _moved(tx, Verb.COMPLETE, _complete(), held, p_result=result)
    records.close_attempts(tx, [row.task_id], AttemptOutcome.COMPLETED, result=result)
    records.write_history(tx, Verb.COMPLETE, [row], actor=held.agent_id)
    if row.status == TaskStatus.COMPLETED:
        _free_dependants(tx, [row.task_id])
    return row


@cache
def _dependants_freed() -> sa.Update:
    met = (
        sa.select(sa.func.count())
        .where(dependencies.c.task_id == tasks.c.task_id, among(dependencies.c.depends_on, "batch"))
        .scalar_subquery()
    )
    waiting_for_batch = sa.select(dependencies.c.task_id).where(among(dependencies.c.depends_on, "batch"))
    return (
        sa.update(tasks)
        .where(tasks.c.task_id.in_(waiting_for_batch))
        .values(
            unmet_dependencies=tasks.c.unmet_dependencies - met,
            # Waiting is counted from when the last of them was done.
            available_at=sa.case((tasks.c.unmet_dependencies <= met, _LATEST), else_=tasks.c.available_at),
        )
    )


def _free_dependants(tx: Tx, task_ids: Sequence[str]) -> None:
    """Count down what waits for these tasks.

    A statement of its own, after their rows are locked: an edge that was added meanwhile has waited for that
    lock (`queries.lock_targets`) and has seen the new status, or is visible here.
    """
    tx.run(_dependants_freed(), batch=dump_json(list(task_ids)))


def fail(tx: Tx, held: Claim, decision: RetryDecision, error: str, *, timed_out: bool) -> Row:
    """Close the attempt with its error; the task is offered again later, or is a dead letter."""
    counted = _fenced(Verb.FAIL).values(failure_count=tasks.c.failure_count + 1, error=error)
    if decision.again:
        statement = counted.values(
            {**_WAITING, "available_at": later(now(), sa.literal(decision.delay_seconds, sa.Double()))}
        )
    else:
        statement = counted.values(_ended(TaskStatus.FAILED))
    row = _moved(tx, Verb.FAIL, statement, held)
    records.close_attempts(
        tx, [row.task_id], AttemptOutcome.TIMED_OUT if timed_out else AttemptOutcome.FAILED, error=error
    )
    records.write_history(tx, Verb.FAIL, [row], actor=held.agent_id, reason=f"{decision.why}: {error}")
    return row


def release(tx: Tx, held: Claim, reason: str | None) -> Row:
    """Hand the task back; it is offered at once and no failure is counted."""
    # A reviewer's note stays: it is for the next attempt that gets to work.
    kept = sa.func.coalesce(tasks.c.reason, sa.bindparam("p_reason", type_=sa.Text()))
    row = _moved(tx, Verb.RELEASE, _fenced(Verb.RELEASE).values({**_WAITING, "reason": kept}), held, p_reason=reason)
    records.close_attempts(tx, [row.task_id], AttemptOutcome.RELEASED, error=reason)
    records.write_history(tx, Verb.RELEASE, [row], actor=held.agent_id, reason=reason)
    return row


def expire(tx: Tx, limit: int) -> list[Row]:
    """Take back up to `limit` tasks whose lease is over: offered again, or dead letters when losses are spent.

    The statement itself looks at the lease once more, so a heartbeat that came first wins.
    """
    picked = (
        sa.select(tasks.c.seq)
        .where(is_expired())
        .order_by(tasks.c.lease_expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("picked")
    )
    lost = sa.case((status_in({TaskStatus.IN_PROGRESS}), 1), else_=0)
    spent = tasks.c.loss_count + lost >= tasks.c.retry_policy["max_losses"].as_integer()
    ends = sa.and_(status_in({TaskStatus.IN_PROGRESS}), spent)
    why = sa.literal("Lost: the lease of ") + tasks.c.claimed_by + sa.literal(" ended without a word")
    rows = tx.run(
        _guarded(Verb.EXPIRE)
        .where(tasks.c.seq.in_(sa.select(picked.c.seq)), is_expired())
        .values(
            **_FREE,
            status=sa.case((ends, TaskStatus.FAILED.value), else_=TaskStatus.PENDING.value),
            pending_since=sa.case((ends, sa.null()), else_=now()),
            available_at=_LATEST,
            claimed_by=sa.case((ends, tasks.c.claimed_by), else_=None),
            loss_count=tasks.c.loss_count + lost,
            error=sa.case((status_in({TaskStatus.IN_PROGRESS}), why), else_=tasks.c.error),
        )
    ).all()
    started = [row for row in rows if row.previous_status == TaskStatus.IN_PROGRESS]
    records.close_attempts(
        tx, [row.task_id for row in started], AttemptOutcome.LOST, error="the lease ended without a word"
    )
    records.write_history(tx, Verb.EXPIRE, rows, actor="sweep", reason="the lease ended")
    return list(rows)


def stall(tx: Tx, task_ids: Sequence[str], timeout_seconds: float) -> list[Row]:
    """Mark tasks as stalled that still wait longer than `timeout_seconds`."""
    still = waits_longer_than(sa.bindparam("timeout", type_=sa.Double()))
    reason = f"waited longer than {timeout_seconds:g} s"
    rows = tx.run(
        _batch(Verb.STALL).where(still).values({**_ended(TaskStatus.STALLED), "reason": reason}),
        batch=dump_json(list(task_ids)),
        timeout=timeout_seconds,
    ).all()
    records.write_history(tx, Verb.STALL, rows, actor="sweep", reason=reason)
    return list(rows)


def reassign(tx: Tx, task_ids: Sequence[str], timeout_seconds: float) -> list[Row]:
    """Take the assignment from tasks that still wait too long, so that any suitable agent may claim them.

    No move: they stay pending, and their waiting goes on.
    """
    still = waits_longer_than(sa.bindparam("timeout", type_=sa.Double()))
    rows = tx.run(
        sa.update(tasks)
        .where(among(tasks.c.task_id, "batch"), still, tasks.c.assigned_to.is_not(None))
        .values(previous_status=tasks.c.status, assigned_to=None, updated_at=now())
        .returning(*tasks.c),
        batch=dump_json(list(task_ids)),
        timeout=timeout_seconds,
    ).all()
    records.write_history(tx, "reassign", rows, actor="sweep", reason=f"waited longer than {timeout_seconds:g} s")
    return list(rows)


def approve(tx: Tx, task_id: str, reviewer: str, note: str | None) -> Row:
    """The reviewer agrees: completed, dependants are freed."""
    row = _reviewed(tx, Verb.APPROVE, task_id, reviewer, {**_ended(TaskStatus.COMPLETED), "reason": note}, note)
    _free_dependants(tx, [task_id])
    return row


def reject(tx: Tx, task_id: str, reviewer: str, note: str) -> Row:
    """The reviewer does not: pending again, and the note goes to the next attempt; the result stays with its own."""
    return _reviewed(tx, Verb.REJECT, task_id, reviewer, {**_WAITING, "reason": note, "result": sa.null()}, note)


def _reviewed(tx: Tx, verb: Verb, task_id: str, reviewer: str, values: dict[str, Any], note: str | None) -> Row:
    somebody_else = sa.or_(tasks.c.claimed_by.is_(None), tasks.c.claimed_by != reviewer)
    row = tx.run(_one(verb).where(somebody_else).values(values), p_task_id=task_id).one_or_none()
    if row is None:
        error = refusal(tx, verb, task_id)
        if isinstance(error, IllegalTransition) and error.status == TaskStatus.IN_REVIEW:
            why = f"{reviewer} did it; somebody else has to review it"
            raise IllegalTransition(task_id, verb, error.status, why=why)
        raise error
    records.write_history(tx, verb, [row], actor=reviewer, reason=note)
    return row


def _decided(
    tx: Tx,
    verb: Verb,
    task_id: str,
    values: dict[str, Any],
    actor: str | None,
    reason: str | None,
    ends: AttemptOutcome | None,
) -> Row:
    """A verb of operators: no claim needed; whoever held it finds its claim gone."""
    row = _moved(tx, verb, _one(verb).values(values), task_id)
    if ends is not None and row.previous_status == TaskStatus.IN_PROGRESS:
        records.close_attempts(tx, [task_id], ends, error=reason)
    records.write_history(tx, verb, [row], actor=actor, reason=reason)
    return row


def block(tx: Tx, task_id: str, reason: str, actor: str | None) -> Row:
    """Keep it from being worked on; a running attempt is taken back."""
    values = {**_ended(TaskStatus.BLOCKED), "claimed_by": None, "reason": reason}
    return _decided(tx, Verb.BLOCK, task_id, values, actor, reason, AttemptOutcome.RELEASED)


def unblock(tx: Tx, task_id: str, actor: str | None) -> Row:
    """Offer it again."""
    return _decided(tx, Verb.UNBLOCK, task_id, {**_WAITING, "reason": None}, actor, None, None)


def cancel(tx: Tx, task_id: str, reason: str | None, actor: str | None) -> Row:
    """End it; a running attempt learns it at its next heartbeat."""
    values = {**_ended(TaskStatus.CANCELLED), "reason": reason}
    return _decided(tx, Verb.CANCEL, task_id, values, actor, reason, AttemptOutcome.CANCELLED)


def retry(tx: Tx, task_id: str, actor: str | None) -> Row:
    """Offer it again with a fresh budget; attempts and history stay."""
    values = {**_WAITING, "failure_count": 0, "loss_count": 0, "reason": None, "available_at": now()}
    return _decided(tx, Verb.RETRY, task_id, values, actor, None, None)
