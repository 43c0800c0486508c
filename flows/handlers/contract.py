"""What a handler is, what it is given, and how it asks for another try or for none.

A handler does the work of one task type. It knows neither Prefect nor SQL:

    @handler("summarise")
    async def summarise(task: Task, context: TaskContext) -> JsonValue: ...

`async def` runs on the event loop; `def` runs in a thread. What it returns is kept as the task's result and
must be JSON. What it raises is a failed attempt: the task's retry policy decides what follows, unless the
handler raised `Retry` or `GiveUp`. Work is at-least-once: give `context.idempotency_key` to services that
can ignore repeats.
"""

import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nexus.errors import short
from nexus.schemas import MAX_DELAY_SECONDS, Task
from nexus.settings import NexusSettings

Handler = Callable[[Task, "TaskContext"], Any | Awaitable[Any]]


class Retry(Exception):
    """Raised by a handler: try again later, at the policy's delay or after `after_seconds`.

    It counts as a failed attempt, so a task that asks for ever still ends. `after_seconds` is kept between 0
    and 30 days.
    """

    retryable = True

    def __init__(self, message: str = "asked for another try", *, after_seconds: float | None = None) -> None:
        if after_seconds is not None:
            # Zero comes first, so that NaN is 0 too: a wrong delay must not hide why the handler asked.
            after_seconds = min(max(0.0, after_seconds), MAX_DELAY_SECONDS)
        self.retry_after_seconds = after_seconds
        super().__init__(message)


class GiveUp(Exception):
    """Raised by a handler: no further attempt will help; the task is a dead letter at once."""

    retryable = False


def _in_words(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return short(value)


@dataclass(slots=True)
class TaskContext:
    """What a handler is given beside the task."""

    agent_id: str
    attempt_number: int
    idempotency_key: str
    """The same for every attempt at this task."""
    settings: NexusSettings
    dependency_results: Mapping[str, Any] = field(default_factory=dict)
    """The results of the tasks that it depends on, by id."""
    previous_error: str | None = None
    review_note: str | None = None
    """What the reviewer wrote who rejected the attempt before this one."""
    logger: logging.Logger | logging.LoggerAdapter[Any] = field(
        default_factory=lambda: logging.getLogger("nexus.handlers")
    )
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when the attempt must end: cancelled, timed out, its claim lost, or its agent stopping. An `async`
    handler is cancelled as well; a `def` handler that takes long looks at it now and then. What it returns once
    this is set completes nothing; unless it timed out, it is kept on the attempt as `late_result`."""
    _notes: deque[str] = field(default_factory=lambda: deque(maxlen=1))

    def note(self, text: object) -> None:
        """Say how far the work is; written to the attempt with the next heartbeat, the last one when it ends.

        What is no text is written as one: how far the work is must not be what it fails of.
        """
        if text is not None:
            self._notes.append(text if isinstance(text, str) else _in_words(text))

    def take_note(self) -> str | None:
        """The newest note that was not written yet; for the heartbeat."""
        # Taking and forgetting is one step: the handler may run in another thread than the heartbeat.
        try:
            return self._notes.pop()
        except IndexError:
            return None
