"""The rows of a task that a board brings: what it asks for, where it stands, and the attempts that are over."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from nexus import intake
from nexus.boards.records import UNRESOLVED, BoardTask
from nexus.errors import InvalidTask
from nexus.rows import Row
from nexus.schemas import Attempt
from nexus.settings import NexusSettings
from nexus.states import HELD, AttemptOutcome, TaskStatus

_DEFINITION = (
    "task_type", "description", "payload", "priority", "tags", "depends_on", "required_capabilities", "assigned_to",
    "on_dependency_failure",
    "retry_policy", "timeout_seconds", "requires_review", "deadline", "related_task_id", "idempotency_key", "extra",
)  # fmt: skip
"""What a record says a task is, as opposed to where it stands."""


def definition(task: BoardTask, settings: NexusSettings) -> dict[str, Any]:
    """What a record says a task is, as columns."""
    drafted = intake.draft(task.new, settings.retry)
    return {name: _listed(drafted[name]) for name in _DEFINITION}


def redefinition(task: BoardTask, row: Row, settings: NexusSettings) -> dict[str, Any]:
    """What is to be written of a task that is there already: where its record says what it said before, only what it
    waits for, since an operator or the sweep may have decided otherwise about the rest."""
    values = definition(task, settings)
    if row.import_digest == task.digest:
        return {name: values[name] for name in ("depends_on", "extra")}
    return (
        values | {"import_digest": task.digest} | ({"episode_id": task.new.episode_id} if task.new.episode_id else {})
    )


def is_same(task: BoardTask, row: Row, settings: NexusSettings) -> bool:
    """The record says what its task is already."""
    return all(value == getattr(row, name) for name, value in definition(task, settings).items())


def found_since(task: BoardTask, row: Row) -> bool:
    """Something that it waits for was no task yet when its record was imported, and is one now."""
    noted, still = row.extra.get(UNRESOLVED), task.new.extra.get(UNRESOLVED)
    left = still if isinstance(still, list) else []
    return isinstance(noted, list) and any(noted.count(one) > left.count(one) for one in task.new.depends_on)


def _listed(value: Any) -> Any:
    """As it comes back: JSON knows no tuples."""
    return list(value) if isinstance(value, tuple) else value


def row_of(task: BoardTask, settings: NexusSettings, present: datetime) -> dict[str, Any]:
    """The row of a task with a past. What the table's CHECKs ask for is seen to here, whatever the board says."""
    state, status = task.state, task.status
    row = intake.row_of(intake.draft(task.new, settings.retry), task.task_id, present)
    pending_since = state.pending_since if task.exact and state.pending_since else present
    offered = task.new.available_at or present
    held = status in HELD
    lease = state.lease_expires_at if task.exact else None
    open_one = next((one for one in state.attempts if one.outcome == AttemptOutcome.RUNNING), None)
    row |= {
        "status": status.value,
        "claimed_by": None if status == TaskStatus.PENDING else state.claimed_by,
        # Also before it is started: a start leaves this alone, and the attempt that it begins is written down by it.
        "holder": state.claimed_by if held else None,
        "claim_no": max(state.claim_no, 1 if held else 0),
        "lease_expires_at": (lease or present + timedelta(seconds=settings.lease_seconds)) if held else None,
        "lease_seconds": settings.lease_seconds if held else None,
        "attempt_count": max(
            state.attempt_count,
            len(state.attempts),
            1 if status == TaskStatus.IN_PROGRESS else 0,
            *(one.number for one in state.attempts),
        ),
        "failure_count": state.failure_count,
        "loss_count": state.loss_count,
        "created_at": state.created_at or present,
        "updated_at": state.updated_at or present,
        "pending_since": pending_since if status == TaskStatus.PENDING else None,
        "available_at": max(offered, pending_since) if status == TaskStatus.PENDING else offered,
        "result": state.result,
        "error": state.error,
        "reason": state.reason,
        "import_digest": task.digest,
    }
    return row | (_going_on(task, open_one, present) if status == TaskStatus.IN_PROGRESS else {})


def _going_on(task: BoardTask, attempt: Attempt | None, present: datetime) -> dict[str, Any]:
    """The attempt that goes on; a board that says only that one does gets one of which nothing else is known."""
    if attempt is None:
        return {"started_at": task.state.updated_at or present, "note": "imported as in progress"}
    return {name: getattr(attempt, name) for name in ("started_at", "heartbeat_at", "note", "run_ref")}


def attempts_of(task: BoardTask) -> Iterable[dict[str, Any]]:
    """Those that are over."""
    for attempt in task.state.attempts:
        if attempt.outcome != AttemptOutcome.RUNNING:
            yield attempt.model_dump() | {"outcome": attempt.outcome.value, "task_id": task.task_id}


def check_sizes(task: BoardTask, max_bytes: int) -> None:
    """`InvalidTask` where something of it is too large to be kept."""
    for name, value in (("payload", task.new.payload), ("extra", task.new.extra), ("result", task.state.result)):
        intake.check_size(name, value, max_bytes)


def check_attempts(task: BoardTask) -> None:
    """`InvalidTask` where its attempts do not fit each other, or where it stands."""
    attempts = task.state.attempts
    if len({attempt.number for attempt in attempts}) != len(attempts):
        raise InvalidTask("two of its attempts have the same number")
    running = sum(attempt.outcome == AttemptOutcome.RUNNING for attempt in attempts)
    if running != (task.status == TaskStatus.IN_PROGRESS) and (running or task.exact):
        raise InvalidTask(f"it has {running} open attempts and is {task.status}; one is open exactly while in progress")
    last = max((attempt.number for attempt in attempts), default=0)
    if any(attempt.outcome == AttemptOutcome.RUNNING and attempt.number < last for attempt in attempts):
        raise InvalidTask("its open attempt is not its last one")
    if any((attempt.outcome == AttemptOutcome.RUNNING) != (attempt.finished_at is None) for attempt in attempts):
        raise InvalidTask("an attempt is running and finished at once, or neither")
