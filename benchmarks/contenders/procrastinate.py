"""procrastinate: each job is fetched and finished by itself; triggers write an event for each move."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from procrastinate import App, PsycopgConnector

from benchmarks.contenders import Work, dsn

FILLED_AT_ONCE = 1_000


class Procrastinate:
    """A worker that ends when the queue is empty (`wait=False`), as many jobs side by side as others take at once."""

    def make(self, url: str) -> None:
        """Its own schema."""

        async def make() -> None:
            async with _App(url).app.open_async() as app:
                await app.schema_manager.apply_schema_async()

        asyncio.run(make())

    def fill(self, url: str, number: int) -> None:
        """A few batches."""

        async def fill() -> None:
            one = _App(url)
            async with one.app.open_async():
                for first in range(0, number, FILLED_AT_ONCE):
                    batch = [{"n": 1} for _ in range(min(FILLED_AT_ONCE, number - first))]
                    await one.noop.batch_defer_async(*batch)

        asyncio.run(fill())

    @contextmanager
    def open(self, url: str, agent_id: str, batch: int) -> Iterator[Work]:
        """A pool of connections."""
        with asyncio.Runner() as runner:
            one = _App(url)
            runner.run(one.app.open_async().__aenter__())

            def work() -> int:
                one.done = 0
                worker = one.app.run_worker_async(
                    name=agent_id, wait=False, concurrency=batch, install_signal_handlers=False
                )
                runner.run(worker)
                return one.done

            yield work
            runner.run(one.app.close_async())


class _App:
    """The application and its one task, which counts."""

    def __init__(self, url: str) -> None:
        self.app, self.done = App(connector=PsycopgConnector(conninfo=dsn(url))), 0

        @self.app.task(name="noop")
        async def noop(n: int) -> None:
            self.done += n

        self.noop = noop
