"""The nexus's own form: a task of an export, read back field by field and exactly."""

from typing import Any

from nexus.boards.records import BadRecord, BoardState, BoardTask, RawRecord
from nexus.schemas import NewTask
from nexus.states import HELD

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
        }
    )
    if task.new.task_id is None:
        raise BadRecord("it has no task_id, which an export always has")
    if task.status in HELD and task.state.claimed_by is None:
        raise BadRecord(f"it is {task.status}, but claimed_by says by nobody")
    for number, attempt in enumerate(task.state.attempts):
        if attempt.task_id != task.task_id:
            raise BadRecord(f"attempts[{number}] belongs to {attempt.task_id!r}")
    if len({attempt.number for attempt in task.state.attempts}) != len(task.state.attempts):
        raise BadRecord("two of its attempts have the same number")
    return task
