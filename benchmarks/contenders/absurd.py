"""Absurd: stored functions over a task and a run a try; its schema comes with `absurdctl`."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
from absurd_sdk import Absurd, TaskContext
from absurdctl import BUNDLED_SCHEMA_SQL

from benchmarks.contenders import Work, dsn


class AbsurdWorker:
    """Claims in batches; the SDK completes each task by itself."""

    def make(self, url: str) -> None:
        """Its own schema, and a queue."""
        with psycopg.connect(dsn(url), autocommit=True) as connection:
            connection.execute(BUNDLED_SCHEMA_SQL)
        with closing(_app(url)) as absurd:
            absurd.create_queue()

    def fill(self, url: str, number: int) -> None:
        """One after another: it has no other way."""
        with closing(_app(url)) as absurd:
            for _ in range(number):
                absurd.spawn("noop", {"n": 1}, queue="noop")

    @contextmanager
    def open(self, url: str, agent_id: str, batch: int) -> Iterator[Work]:
        """One connection."""
        with closing(_app(url)) as absurd:
            done = 0

            @absurd.register_task(name="noop")
            def noop(params: dict[str, int], _context: TaskContext) -> None:
                nonlocal done
                done += params["n"]

            def work() -> int:
                before = last = done
                while True:
                    absurd.work_batch(worker_id=agent_id, batch_size=batch)
                    if done == last:
                        return done - before
                    last = done

            yield work


def _app(url: str) -> Absurd:
    return Absurd(dsn(url), queue_name="noop")
