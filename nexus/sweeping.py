"""One pass of the sweep: what it finds, and what it does about it. Safe to repeat, safe to run twice at once.

Two things get stuck: a claim whose holder is gone (its lease is over), and a task that nobody claims (it waits
too long). The first is taken back. What is done about the second is a setting, and is done once per waiting
period: a row per period and step, unique in the database, decides which of two sweeps does it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from nexus import intake, queries, records, transitions
from nexus.engine import Tx
from nexus.records import Row
from nexus.schemas import NewTask, RetryPolicy, SweepItem
from nexus.settings import TaskMonitoringConfig
from nexus.states import TaskStatus

ESCALATION_TAGS = ("escalation", "stalled_task")


@dataclass(slots=True)
class Findings:
    """What one pass did, to be counted into a `SweepReport`."""

    scanned: int = 0
    conflicts: int = 0
    full: bool = False
    failed: int = 0
    items: list[SweepItem] = field(default_factory=list)

    def count(self, action: str) -> int:
        """How many tasks `action` was done to."""
        return sum(item.action == action for item in self.items)


def expire(tx: Tx, config: TaskMonitoringConfig) -> Findings:
    """Take back what is held under a lease that is over."""
    rows = transitions.expire(tx, config.max_per_sweep)
    found = Findings(scanned=len(rows), full=len(rows) == config.max_per_sweep)
    for row in rows:
        ended = row.status == TaskStatus.FAILED
        found.failed += ended
        follows = "its losses are spent, dead letter" if ended else "offered again"
        was = "working on it" if row.previous_status == TaskStatus.IN_PROGRESS else "holding it"
        found.items.append(
            SweepItem(task_id=row.task_id, action="expire", detail=f"the lease ended with an agent {was}; {follows}")
        )
    return found


def stalls(tx: Tx, config: TaskMonitoringConfig, default_policy: RetryPolicy) -> Findings:
    """Do what the strategy says about each waiting period that is too long, once."""
    strategy = config.escalation_strategy
    rows = queries.waiting_too_long(tx, config.pending_timeout_seconds, strategy, config.max_per_sweep)
    found = Findings(scanned=len(rows), full=len(rows) == config.max_per_sweep)
    if not rows:
        return found
    present = tx.present()
    waited = {row.task_id: (present - row.available_at).total_seconds() for row in rows}
    done = _ACTIONS[strategy](tx, rows, config, default_policy)
    stall_of = records.open_stalls(tx, [(row.task_id, row.available_at) for row in rows], present)
    taken = records.take_step(tx, strategy, present, {stall_of[task_id]: done[task_id].detail for task_id in done})
    found.items = [
        SweepItem(task_id=task_id, action=what.action, detail=what.detail, waiting_seconds=waited[task_id])
        for task_id, what in done.items()
        if stall_of[task_id] in taken
    ]
    found.conflicts = len(rows) - len(found.items)
    return found


class Done(NamedTuple):
    """What was done about one task; `log_only` where the strategy found nothing to do."""

    action: str
    detail: str


def _log_only(_tx: Tx, rows: list[Row], config: TaskMonitoringConfig, _policy: RetryPolicy) -> dict[str, Done]:
    return {row.task_id: Done("log_only", f"waits longer than {config.pending_timeout_seconds:g} s") for row in rows}


def _mark_stalled(tx: Tx, rows: list[Row], config: TaskMonitoringConfig, _policy: RetryPolicy) -> dict[str, Done]:
    moved = transitions.stall(tx, [row.task_id for row in rows], config.pending_timeout_seconds)
    return {row.task_id: Done("mark_stalled", "an operator can retry or cancel it") for row in moved}


def _reassign(tx: Tx, rows: list[Row], config: TaskMonitoringConfig, _policy: RetryPolicy) -> dict[str, Done]:
    had = {row.task_id: row.assigned_to for row in rows}
    moved = transitions.reassign(tx, [row.task_id for row in rows], config.pending_timeout_seconds)
    freed = {row.task_id: Done("reassign", f"taken from {had[row.task_id]}; others may claim it now") for row in moved}
    nobody = Done("log_only", "assigned to nobody: any suitable agent could have claimed it, none did")
    return {row.task_id: nobody for row in rows} | freed


def _escalate(tx: Tx, rows: list[Row], config: TaskMonitoringConfig, policy: RetryPolicy) -> dict[str, Done]:
    """A task per stall that asks somebody to look; never for a task that is itself such a request."""
    sources = [row for row in rows if not set(ESCALATION_TAGS) <= set(row.tags)]
    ids = intake.add(tx, [escalation(row, config) for row in sources], policy, actor="sweep")
    asked = {row.task_id: Done("escalate", f"escalated as {new}") for row, new in zip(sources, ids, strict=True)}
    return {row.task_id: Done("log_only", "is an escalation itself: not escalated again") for row in rows} | asked


def escalation(row: Row, config: TaskMonitoringConfig) -> NewTask:
    """The task that asks somebody to look at `row`. Its key makes it one per waiting period."""
    since: datetime = row.available_at
    return NewTask(
        task_type="escalation",
        description=f"Task {row.task_id} has been waiting since {since:%Y-%m-%d %H:%M:%S} UTC: find out why.",
        payload={"task_id": row.task_id, "waiting_since": since.isoformat()},
        priority=10,
        tags=ESCALATION_TAGS,
        assigned_to=config.escalate_to,
        related_task_id=row.task_id,
        idempotency_key=f"escalation:{row.seq}:{since.isoformat()}",
    )


_Action = Callable[[Tx, list[Row], TaskMonitoringConfig, RetryPolicy], dict[str, Done]]
_ACTIONS: Mapping[str, _Action] = {
    "log_only": _log_only,
    "mark_stalled": _mark_stalled,
    "reassign": _reassign,
    "escalate": _escalate,
}
