"""The nexus's own form: a task of an export, read back field by field and exactly."""

from typing import Any

from nexus.boards import vocabulary as words
from nexus.boards.records import BadRecord, BoardState, BoardTask, RawRecord
from nexus.boards.times import one_line, shown
from nexus.schemas import NewTask
from nexus.states import HELD, AttemptOutcome, TaskStatus

VERSION = 1
"""Of the exported form; the value of the member `nexus_board`."""

_NEW = frozenset(NewTask.model_fields) - {"extra"}
_STATE = frozenset(BoardState.model_fields)


def native_task(record: RawRecord, digest: str) -> BoardTask:
    """The task that an export holds. Members that nobody knows land in extra; the numbers come back unread.

    Raises `BadRecord`, or pydantic's `ValidationError`, where a member was changed into something that
    cannot be.
    """
    raw: dict[str, Any] = record.value
    extra = raw.get("extra", {})
    unknown = {
        name: value
        for name, value in raw.items()
        if name not in _NEW and name not in _STATE and name not in ("extra", "status")
    }
    if unknown and isinstance(extra, dict):
        extra = {**unknown, **extra}
    given = {name: raw[name] for name in _NEW if name in raw} | {"extra": extra}
    task = BoardTask.model_validate(
        {
            "new": given,
            "status": raw.get("status", "pending"),
            "state": {name: raw[name] for name in _STATE if raw.get(name) is not None},
            "exact": True,
            "digest": digest,
            "source": record.source,
            "warnings": tuple(one_line(note) for note in words.notes_on(unknown, raw)),
        }
    )
    if task.new.task_id is None:
        raise BadRecord("it has no task_id, which an export always has")
    held = task.status in HELD
    if held and task.state.claimed_by is None:
        raise BadRecord(f"it is {task.status}, but claimed_by names nobody")
    if task.state.lease_expires_at is not None and not held:
        raise BadRecord(f"it has a lease_expires_at, but it is {task.status}, so nobody holds it")
    _check_attempts(task)
    return task


def _check_attempts(task: BoardTask) -> None:
    """What the nexus itself promises of attempts; an export that was changed by hand may not."""
    numbers = set()
    for place, attempt in enumerate(task.state.attempts):
        is_open = attempt.outcome is AttemptOutcome.RUNNING
        if attempt.task_id != task.task_id:
            raise BadRecord(f"attempts[{place}] belongs to another task, {shown(attempt.task_id)}")
        if attempt.number in numbers or not 1 <= attempt.number < 2**31 or not 0 <= attempt.claim_no < 2**31:
            raise BadRecord(f"attempts[{place}] has a number that stands twice or cannot be")
        if is_open != (attempt.finished_at is None) or (is_open and task.status is not TaskStatus.IN_PROGRESS):
            raise BadRecord(f"attempts[{place}] is {attempt.outcome}, which does not fit its finished_at or the task")
        numbers.add(attempt.number)
    if sum(attempt.outcome is AttemptOutcome.RUNNING for attempt in task.state.attempts) > 1:
        raise BadRecord("two of its attempts are running")
