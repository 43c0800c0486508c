"""What reading a board gives: frozen values that the nexus applies, counts and prints."""

from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from nexus.errors import BoardUnreadable
from nexus.schemas import Attempt, NewTask
from nexus.states import TaskStatus
from nexus.values import Id, Instant, Json, Text


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class BadRecord(ValueError):
    """The record cannot be imported; the message is the reason."""


UNRESOLVED: Final = "unresolved_dependencies"
"""The member of `extra` for what a record says it waits for and no task goes by."""

MAX_REJECTS: Final = 100_000
"""Of one file. Each is kept with its place and its beginning, so a file of nothing else would fill the memory."""


def check_rejects(count: int, file: str) -> None:
    """`BoardUnreadable` where so much of a file is no task that it can be no board."""
    if count > MAX_REJECTS:
        raise BoardUnreadable(file, f"holds more than {MAX_REJECTS:,} records that cannot be imported; is it a board?")


class Source(_Value):
    """Where a record stands, in words that a person can follow."""

    file: str
    location: str
    """`tasks[3]`, `line 12`, `agents.Agent-1.tasks.T-9`; empty for the whole file."""

    def __str__(self) -> str:
        return f"{self.file}: {self.location}" if self.location else self.file


class BoardState(_Value):
    """What a task has behind it, and `NewTask` cannot hold. None: the board does not say."""

    claimed_by: Id | None = None
    claim_no: int = Field(0, ge=0, lt=2**31)
    lease_expires_at: Instant | None = None
    attempt_count: int = Field(0, ge=0, lt=2**31)
    failure_count: int = Field(0, ge=0, lt=2**31)
    loss_count: int = Field(0, ge=0, lt=2**31)
    created_at: Instant | None = None
    updated_at: Instant | None = None
    pending_since: Instant | None = None
    result: Json = None
    error: Text | None = None
    reason: Text | None = None
    attempts: tuple[Attempt, ...] = ()


NOTHING_BEHIND: Final = BoardState()
"""Shared by the many tasks of which a board says nothing but what is to be done."""


class BoardTask(_Value):
    """One task of a board, ready to be written."""

    new: NewTask
    """Its definition; `task_id` is always set, `depends_on` names only tasks that exist."""
    status: TaskStatus = TaskStatus.PENDING
    state: BoardState = NOTHING_BEHIND
    exact: bool = False
    """From an export of the nexus: every field is to be restored as it stands."""
    digest: str
    """SHA-256 of the record as it stood in the file: the same digest again changes nothing."""
    source: Source
    warnings: tuple[str, ...] = ()

    @property
    def task_id(self) -> str:
        """The id, which a read board always gives."""
        assert self.new.task_id is not None
        return self.new.task_id


class Reject(_Value):
    """A record, or a whole file, that is not imported, and why."""

    file: str
    location: str
    task_id: str | None = None
    reason: str
    record: str = ""
    """The beginning of the record as JSON text, for display."""

    def __str__(self) -> str:
        place = f"{self.file}: {self.location}" if self.location else self.file
        name = f" ({self.task_id})" if self.task_id else ""
        return f"{place}{name}: {self.reason}"


class Board(_Value):
    """All that was read: nothing of the files is in neither `tasks` nor `rejects` nor `warnings`."""

    tasks: tuple[BoardTask, ...] = ()
    rejects: tuple[Reject, ...] = ()
    warnings: tuple[str, ...] = ()
    """About whole files; those about one task are on the task."""
    files: tuple[str, ...] = ()
    duplicates: int = 0
    """Records that stood twice, word for word; they count as unchanged."""

    def in_episode(self, episode_id: str, *, all_of_them: bool = False) -> "Board":
        """The board with its tasks in one episode: those that name none, or all of them.

        An episode that is replaced is kept in `extra["episode_id"]`.
        """
        return self.model_copy(update={"tasks": tuple(_moved(task, episode_id, all_of_them) for task in self.tasks)})

    def renamed(self, suffix: str) -> "Board":
        """The same board once more: every id ends in `suffix`, so that it is new to a nexus that knows the first."""
        ids = {task.task_id: f"{task.task_id}{suffix}" for task in self.tasks}
        return self.model_copy(update={"tasks": tuple(_renamed(task, ids, suffix) for task in self.tasks)})


class ImportReport(_Value):
    """What an import did, or with `dry_run` would do."""

    accepted: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    rejects: tuple[Reject, ...] = ()
    warnings: tuple[str, ...] = ()
    dry_run: bool = False
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A record as it was found, with what its surroundings say about it."""

    value: Any
    source: Source
    key: str | None = None
    """Its key, where it stands in a map by id."""
    listed_as: TaskStatus | None = None
    """The state that the name of its list implies, such as `completed_tasks`."""
    agent: str | None = None
    """Whose list it stands in."""
    episode_id: str | None = None
    parent_id: str | None = None
    alone: bool = False
    """The only record of its file: the file's name may serve as its id."""
    native: bool = False
    """From an export of the nexus."""


def _moved(task: BoardTask, episode_id: str, even_others: bool) -> BoardTask:
    named = task.new.episode_id
    if named == episode_id or (named is not None and not even_others):
        return task
    extra = {**task.new.extra, "episode_id": named} if named else task.new.extra
    return task.model_copy(update={"new": task.new.model_copy(update={"episode_id": episode_id, "extra": extra})})


def _renamed(task: BoardTask, ids: dict[str, str], suffix: str) -> BoardTask:
    key = task.new.idempotency_key
    definition = {
        "task_id": ids[task.task_id],
        "depends_on": tuple(ids.get(target, target) for target in task.new.depends_on),
        "idempotency_key": f"{key}{suffix}" if key else None,
    }
    return task.model_copy(update={"new": task.new.model_copy(update=definition), "digest": f"{task.digest}{suffix}"})
