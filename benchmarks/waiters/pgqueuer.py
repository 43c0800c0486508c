"""PgQueuer's worker as it comes: it listens, and polls every 30 s."""

import asyncio
import queue
import threading
import time
from typing import Any, Self

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.contenders import dsn
from benchmarks.contenders.pgqueuer import PgQueuerDrained

PATIENCE_SECONDS = 30


class Waiter:
    """Handles whatever comes."""

    def __init__(self, url: str) -> None:
        PgQueuerDrained().make(url)
        self._url = url
        self._picked: queue.Queue[float] = queue.Queue()
        self._loop = uvloop.new_event_loop()
        self._queue: Any = None
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._wait(),))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._queue.shutdown.set)
        self._thread.join()

    def ready(self) -> None:
        """Answered when the tables are there."""

    def picked(self) -> float:
        """The moment at which the next job reached its handler; waits for it."""
        return self._picked.get(timeout=PATIENCE_SECONDS)

    async def _wait(self) -> None:
        connection = await asyncpg.connect(dsn(self._url))
        self._queue = PgQueuer(AsyncpgDriver(connection))

        @self._queue.entrypoint("noop")
        async def noop(_job: Job) -> None:
            self._picked.put(time.monotonic())

        await self._queue.run()
        await connection.close()


class Adder:
    """Adds jobs one by one."""

    def __init__(self, url: str) -> None:
        self._url, self._runner = url, asyncio.Runner(loop_factory=uvloop.new_event_loop)

    def __enter__(self) -> Self:
        self._runner.__enter__()
        self._connection = self._runner.run(asyncpg.connect(dsn(self._url)))
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._connection.close())
        self._runner.close()

    def add(self) -> float:
        """Add one; the moment at which that began."""
        began = time.monotonic()
        self._runner.run(Queries(AsyncpgDriver(self._connection)).enqueue("noop", b'{"n":1}'))
        return began
