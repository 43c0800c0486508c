"""Chancy: jobs are fetched in batches; what became of them is written once a second, all of it together."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from chancy import Chancy, Queue, Worker, job

from benchmarks.contenders import Work, dsn

LOOK_SECONDS = 0.05
"""Between two looks whether the database says that all is done."""

LEFT = "SELECT EXISTS (SELECT FROM chancy_jobs WHERE state IN ('pending', 'running', 'retrying'))"

_done = 0


@job(queue="noop")
async def noop(*, n: int) -> None:
    """The job; Chancy finds it by its name."""
    global _done
    _done += n


class ChancyWorker:
    """A worker with as many slots as others take at once, which asks for the next jobs as soon as one ends."""

    def make(self, url: str) -> None:
        """Its own schema."""

        async def make() -> None:
            async with _app(url) as chancy:
                await chancy.migrate()

        asyncio.run(make())

    def fill(self, url: str, number: int) -> None:
        """A few batches."""

        async def fill() -> None:
            async with _app(url) as chancy:
                async for _ in chancy.push_many([noop.job.with_kwargs(n=1)] * number):
                    pass

        asyncio.run(fill())

    @contextmanager
    def open(self, url: str, agent_id: str, batch: int) -> Iterator[Work]:
        """A pool of connections, and the queue's declaration."""
        with asyncio.Runner() as runner:
            chancy = _app(url)
            runner.run(_declared(chancy, batch))
            yield lambda: runner.run(_all_done(chancy, agent_id))
            runner.run(chancy.__aexit__(None, None, None))


async def _declared(chancy: Chancy, batch: int) -> None:
    await chancy.__aenter__()
    queue = Queue("noop", concurrency=batch, executor=Chancy.Executor.Async, polling_interval=1, eager_polling=True)
    await chancy.declare(queue, upsert=True)


async def _all_done(chancy: Chancy, agent_id: str) -> int:
    global _done
    _done = 0
    async with Worker(chancy, worker_id=agent_id, register_signal_handlers=False):
        while await _is_left(chancy):  # noqa: ASYNC110 - nobody else tells it
            await asyncio.sleep(LOOK_SECONDS)
    return _done


async def _is_left(chancy: Chancy) -> bool:
    async with chancy.pool.connection() as connection:
        row = await (await connection.execute(LEFT)).fetchone()
        return bool(row and row[0])


def _app(url: str) -> Chancy:
    log = logging.getLogger("chancy.quiet")
    log.setLevel(logging.WARNING)
    return Chancy(dsn(url), log=log)
