"""Huey on SQLite: a task is deleted when it is taken, so one that is lost with its worker is lost."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huey import SqliteHuey

from benchmarks.contenders import Work, file_of


class HueyConsumer:
    """What a thread of its consumer does, `dequeue` and `execute`, without the rests in between; with fsync."""

    def make(self, url: str) -> None:
        """Opening it makes the tables."""
        _App(url).huey.storage.close()

    def fill(self, url: str, number: int) -> None:
        """One after another: it has no other way."""
        app = _App(url)
        for _ in range(number):
            app.noop(1)
        app.huey.storage.close()

    @contextmanager
    def open(self, url: str, agent_id: str, batch: int) -> Iterator[Work]:  # noqa: ARG002 - one by one, nobody's name
        """One connection."""
        app = _App(url)

        def work() -> int:
            app.done = 0
            while (task := app.huey.dequeue()) is not None:
                app.huey.execute(task)
            return app.done

        yield work
        app.huey.storage.close()


class _App:
    """The application and its one task, which counts."""

    def __init__(self, url: str) -> None:
        self.huey, self.done = SqliteHuey("noop", filename=file_of(url), fsync=True, timeout=30), 0

        def noop(n: int) -> None:
            self.done += n

        self.noop: Any = self.huey.task(name="noop")(noop)
