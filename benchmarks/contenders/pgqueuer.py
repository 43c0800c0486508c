"""PgQueuer: jobs are claimed in batches, handled by coroutines, and what became of them is written in batches."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

from benchmarks.contenders import Work, dsn


class PgQueuerDrained:
    """A worker that ends when the queue is empty, on uvloop, as its `pgq run` is."""

    def make(self, url: str) -> None:
        """Its own schema, with its default durability: all tables are logged."""

        async def install(connection: Any) -> None:
            await Queries(AsyncpgDriver(connection)).install()

        _connected(url, install)

    def fill(self, url: str, number: int) -> None:
        """One batch."""

        async def enqueue(connection: Any) -> None:
            await Queries(AsyncpgDriver(connection)).enqueue(["noop"] * number, [b'{"n":1}'] * number, [0] * number)

        _connected(url, enqueue)

    @contextmanager
    def open(self, url: str, agent_id: str, batch: int) -> Iterator[Work]:  # noqa: ARG002 - a worker names itself
        """One connection."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            connection = runner.run(asyncpg.connect(dsn(url)))
            yield lambda: runner.run(_drained(connection, batch))
            runner.run(connection.close())


async def _drained(connection: Any, batch: int) -> int:
    await connection.reset()  # the listeners of the run before
    queue, done = PgQueuer(AsyncpgDriver(connection)), 0

    @queue.entrypoint("noop")
    async def noop(_job: Job) -> None:
        nonlocal done
        done += 1

    await queue.qm.run(batch_size=batch, mode=QueueExecutionMode.drain)
    return done


def _connected(url: str, work: Any) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(dsn(url))
        try:
            await work(connection)
        finally:
            await connection.close()

    asyncio.run(run())
