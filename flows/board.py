"""The board that flows work on: the settings' own, opened once per process, unless the caller names another."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from nexus import NexusSettings, TaskNexus

_given: ContextVar[TaskNexus | None] = ContextVar("nexus", default=None)
_open: dict[str, TaskNexus] = {}
_opening = threading.Lock()


def board() -> TaskNexus:
    """The nexus of the surrounding `working_on`, or the one that the settings name."""
    given = _given.get()
    if given is not None:
        return given
    settings = NexusSettings.load()
    key = settings.model_dump_json()
    with _opening:
        if key not in _open:
            _open[key] = TaskNexus(settings=settings)
        return _open[key]


@contextmanager
def working_on(nexus: TaskNexus) -> Iterator[TaskNexus]:
    """Flows that are called inside work on `nexus`."""
    token = _given.set(nexus)
    try:
        yield nexus
    finally:
        _given.reset(token)
