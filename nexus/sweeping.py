"""One pass of the sweep: what it finds, and what it does about it. Safe to repeat, safe to run twice at once.

Things get stuck in five ways: a claim whose holder is gone (its lease is over), one whose holder is there but does
not end (past the task's timeout), a task that nobody claims (it waits too long: a stall is opened, whose ladder is
climbed step by step), a task past its deadline, and a question about a task that has moved on. Each is a part of
the pass, a transaction of its own, bounded: what is left the next pass continues.

A part picks its candidates by plain columns and locks them, then acts on all of them at once. Where that fails
because a row cannot be read, halves are tried, until the bad one stands alone: it is reported, and skipped.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import exc

from nexus import transitions, waiting, watch
from nexus.engine import Tx
from nexus.explaining import Terms, reasons
from nexus.ladder import due
from nexus.monitoring import ACTIONS, DEFAULT_POLICY, TaskMonitoringConfig
from nexus.reports import SweepItem
from nexus.retry import decide
from nexus.rows import Row, made, to_claim, to_task
from nexus.schemas import Failure, RetryPolicy
from nexus.states import TaskStatus
from nexus.stepping import Done, Stepping, escalate


@dataclass(frozen=True, slots=True)
class Orders:
    """What a pass goes by."""

    config: TaskMonitoringConfig
    default_policy: RetryPolicy
    terms: Terms
    learnt: Mapping[str, float] = field(default_factory=dict)
    """Thresholds by task type, where they are adaptive."""


@dataclass(slots=True)
class Findings:
    """What one part did, to be added up into a `SweepReport`."""

    seen: set[str] = field(default_factory=set)
    conflicts: int = 0
    full: bool = False
    failed: int = 0
    items: list[SweepItem] = field(default_factory=list)

    def count(self, *actions: str) -> int:
        """How many tasks one of `actions` was done to."""
        return sum(item.action in actions for item in self.items)

    def add(self, task_id: str, action: str, detail: str, waiting_seconds: float | None = None) -> None:
        """One deed."""
        self.seen.add(task_id)
        what = {"task_id": task_id, "action": action, "detail": detail, "waiting_seconds": waiting_seconds}
        self.items.append(made(SweepItem, what))

    def join(self, other: "Findings") -> None:
        """Add up."""
        self.seen |= other.seen
        self.items += other.items
        self.conflicts += other.conflicts
        self.failed += other.failed
        self.full |= other.full


Part = Callable[[Tx, Orders], Findings]


def _each(
    tx: Tx, numbers: Sequence[int], limit: int, act: Callable[[Sequence[int]], Findings], name: Callable[[int], str]
) -> Findings:
    """`act` on all of `numbers` at once; around rows that cannot be read, on as many as can."""
    found = Findings(full=len(numbers) == limit)
    ahead = [list(numbers)] if numbers else []
    while ahead:
        batch = ahead.pop()
        try:
            with tx.connection.begin_nested():
                found.join(act(batch))
        except Exception as error:
            if not _is_of_a_row(error):
                raise
            if len(batch) == 1:
                text = str(getattr(error, "orig", error)).strip().split("\n")[0]
                found.add(name(batch[0]), "skip", f"its row cannot be read: {type(error).__name__}: {text}")
                continue
            middle = len(batch) // 2
            ahead += [batch[middle:], batch[:middle]]
    return found


def _is_of_a_row(error: Exception) -> bool:
    """Whether it is about what a row holds; anything else is about the database, or a fault of ours."""
    if isinstance(error, exc.OperationalError):
        return "malformed JSON" in str(error.orig)
    return isinstance(error, exc.DataError | exc.IntegrityError | ValueError | TypeError | LookupError)


def _names(tx: Tx) -> Callable[[int], str]:
    return lambda number: watch.ids_of(tx, [number]).get(number, f"row {number}")


def leases(tx: Tx, orders: Orders) -> Findings:
    """Take back what is held under a lease that is over."""

    def act(numbers: Sequence[int]) -> Findings:
        found = Findings()
        rows = transitions.expire(tx, numbers)
        for row in rows:
            ended = row.status == TaskStatus.FAILED
            found.failed += ended
            follows = "its losses are spent, dead letter" if ended else "offered again"
            was = "working on it" if row.previous_status == TaskStatus.IN_PROGRESS else "holding it"
            found.add(row.task_id, "expire", f"the lease ended with an agent {was}; {follows}")
        found.conflicts = len(numbers) - len(rows)
        return found

    limit = orders.config.max_per_sweep
    return _each(tx, watch.expired(tx, limit), limit, act, _names(tx))


def hung(tx: Tx, orders: Orders) -> Findings:
    """End attempts whose agents renew their leases, but do not end."""

    def act(numbers: Sequence[int]) -> Findings:
        found = Findings()
        for row in watch.by_number(tx, numbers):
            seconds = row.timeout_seconds
            failure = Failure(
                message=f"took longer than {seconds:g} s, and its agent still renews the lease",
                error_type="TimeoutError",
                timed_out=True,
            )
            decision = decide(to_task(row).retry_policy, row.failure_count + 1, failure, row.task_id)
            claim = to_claim(row)
            after = transitions.fail(tx, claim, decision, str(failure), timed_out=True, actor="sweep")
            found.failed += after.status == TaskStatus.FAILED
            follows = "dead letter" if after.status == TaskStatus.FAILED else "tried again"
            found.add(row.task_id, "time_out", f"{row.claimed_by} {failure.message}; {follows}: {decision.why}")
        return found

    limit = orders.config.max_per_sweep
    return _each(tx, watch.hung(tx, limit), limit, act, _names(tx))


def stalls(tx: Tx, orders: Orders) -> Findings:
    """Open a stall for each waiting period that is too long, and climb the ladders of those that are open."""
    found = _opened(tx, orders)
    waiting.reckon_again(tx, orders.config.ladders_hash)
    found.join(_climbed(tx, orders))
    return found


def _opened(tx: Tx, orders: Orders) -> Findings:
    config, present = orders.config, tx.present()
    still = watch.still_waits_too_long(config, orders.learnt)

    def act(numbers: Sequence[int]) -> Findings:
        rows = watch.by_number(tx, numbers)
        why = _why(tx, rows, orders.terms, "nothing keeps it from being claimed: nobody came")
        stall_of = _open(tx, rows, "waiting", why, present, config.ladders_hash, next_step_at=present)
        seen = {row.task_id for row in transitions.watch(tx, numbers, still)}
        if gone := [stall_id for task_id, stall_id in stall_of.items() if task_id not in seen]:
            waiting.close_stalls(tx, gone, "pause")  # which came just now: all else about these tasks is locked
        return Findings(seen=seen, conflicts=len(numbers) - len(seen))

    limit = config.max_per_sweep
    return _each(tx, watch.unwatched(tx, config, orders.learnt, limit), limit, act, _names(tx))


def _open(
    tx: Tx,
    rows: Sequence[Row],
    kind: str,
    why: Mapping[str, str],
    present: datetime,
    digest: str,
    next_step_at: datetime | None,
) -> dict[str, int]:
    since = "available_at" if kind == "waiting" else "deadline"
    return waiting.open_stalls(
        tx,
        [
            {
                "task_id": row.task_id,
                "kind": kind,
                "since": getattr(row, since),
                "why": why[row.task_id],
                "opened_at": present,
                "policy": DEFAULT_POLICY,
                "next_step_at": next_step_at,
                "settings_hash": digest,
            }
            for row in rows
        ],
    )


def _why(tx: Tx, rows: Iterable[Row], terms: Terms, otherwise: str) -> dict[str, str]:
    """What keeps each task from being claimed; asked once for all that ask the same of an agent."""
    said: dict[Any, str] = {}
    why = {}
    for row in rows:
        alike: tuple[Any, ...] = (row.status, row.assigned_to, tuple(row.required_capabilities), row.task_type)
        if row.status != TaskStatus.PENDING or row.unmet_dependencies:
            alike = (row.task_id,)
        if alike not in said:
            said[alike] = "; ".join(reason.message for reason in reasons(tx, row.task_id, terms)) or otherwise
        why[row.task_id] = said[alike]
    return why


def _climbed(tx: Tx, orders: Orders) -> Findings:
    config, present = orders.config, tx.present()

    def act(stall_ids: Sequence[int]) -> Findings:
        rows = watch.watched(tx, stall_ids, config)
        taken = watch.steps_taken(tx, stall_ids)
        found = Findings(conflicts=len(stall_ids) - len(rows))
        plan = {
            row.stall_id: due(config.ladders[row.policy_no], row.opened_at, taken[row.stall_id], present)
            for row in rows
        }
        for action in ACTIONS:
            on = [row for row in rows if action in plan[row.stall_id].now]
            found.join(_step(tx, action, on, orders, present))
        ahead: dict[tuple[str, datetime | None], list[int]] = {}
        for row in rows:
            key = config.ladders[row.policy_no].name, plan[row.stall_id].next_at
            ahead.setdefault(key, []).append(row.stall_id)
        for (policy, at), ids in ahead.items():
            waiting.set_next_step(tx, ids, policy, at)
        return found

    limit = config.max_per_sweep
    return _each(tx, watch.steps_due(tx, limit), limit, act, lambda stall_id: watch.task_of_stall(tx, stall_id))


def _step(tx: Tx, action: str, rows: list[Row], orders: Orders, present: datetime) -> Findings:
    """Take one step on each of these tasks, and put it down."""
    found = Findings()
    if not rows:
        return found
    stall_of = {row.task_id: row.stall_id for row in rows}
    waited = {row.task_id: (present - row.available_at).total_seconds() for row in rows}
    done: dict[str, Done] = Stepping(tx, orders.config, orders.default_policy, present).take(action, rows)
    taken = waiting.take_step(tx, action, present, {stall_of[task_id]: one.detail for task_id, one in done.items()})
    for task_id, one in done.items():
        if stall_of[task_id] in taken:
            found.add(task_id, one.action, one.detail, waited[task_id])
    found.failed = found.count("fail")
    found.conflicts = len(rows) - len(found.items)
    return found


def deadlines(tx: Tx, orders: Orders) -> Findings:
    """Ask somebody to look after what is past its deadline, once per deadline."""
    present = tx.present()

    def act(numbers: Sequence[int]) -> Findings:
        found = Findings()
        rows = watch.by_number(tx, numbers)
        why = _why(tx, rows, orders.terms, "it could be claimed: nobody came")
        stall_of = _open(tx, rows, "deadline", why, present, orders.config.ladders_hash, next_step_at=None)
        marked = {row.task_id for row in transitions.mark_overdue(tx, numbers)}
        late = [row for row in rows if row.task_id in marked]
        done = escalate(tx, late, stall_of, "deadline", orders.config, orders.default_policy)
        taken = waiting.take_step(tx, "escalate", present, {stall_of[name]: one.detail for name, one in done.items()})
        for row in late:
            if stall_of[row.task_id] in taken:
                passed = f"its deadline {row.deadline:%Y-%m-%d %H:%M:%S} UTC has passed ({why[row.task_id]})"
                found.add(row.task_id, "overdue", f"{passed}; {done[row.task_id].detail}")
        found.conflicts = len(rows) - len(found.items)
        return found

    limit = orders.config.max_per_sweep
    return _each(tx, watch.past_deadline(tx, limit), limit, act, _names(tx))


def withdrawals(tx: Tx, orders: Orders) -> Findings:
    """Close questions about tasks that have moved on, which somebody held when they did."""
    rows = watch.pointless(tx, orders.config.max_per_sweep)
    found = Findings(full=len(rows) == orders.config.max_per_sweep)
    if rows:
        transitions.withdraw(tx, [row.stall_id for row in rows], None, "moved on meanwhile")
    for row in rows:
        found.add(row.task_id, "withdraw", "the task that it asked about has moved on")
    return found


PARTS: tuple[Part, ...] = (leases, hung, stalls, deadlines, withdrawals)
"""In this order: what a dead agent held is offered again before anybody asks how long it waits."""
