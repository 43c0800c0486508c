"""The process in which shifts, Prefect's own tasks and the nexus alone are run; `benchmarks.shift` tells it which."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Self

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.task_worker import TaskWorker

from benchmarks import shift
from flows import TaskContext, handler, process_agent_tasks
from flows.board import working_on
from flows.reports import ShiftReport
from nexus import Claim, NexusSettings, Task, TaskNexus, TaskStatus
from nexus.errors import NexusError

Done = tuple[int, float]
"""How many tasks, in how many seconds."""

AGENT = "Agent-1"

CONCURRENCY = 4
"""Tasks side by side, of everybody: the default of a shift."""

SERVING = "serving"
"""The thread in which background tasks are run."""

SUBSCRIBED_SECONDS = 3.0
"""After which a task worker listens."""

LOST_AFTER_SECONDS = 10.0
"""Nothing has ended for so long: what is left was lost on its way to the task worker."""


class Recorded(TaskNexus):
    """A nexus that keeps how many tasks each call of a shift was about."""

    def __init__(self, url: str) -> None:
        super().__init__(url, settings=NexusSettings(database_url=url))
        self.calls: list[tuple[str, int]] = []

    def claim(self, agent_id: str, limit: int = 1, **asked: Any) -> list[Claim]:
        """As ever."""
        self.calls.append(("claim", limit))
        return super().claim(agent_id, limit, **asked)

    def complete_many(self, results: Iterable[tuple[Claim, Any]]) -> list[TaskStatus | NexusError]:
        """As ever."""
        pairs = list(results)
        self.calls.append(("complete", len(pairs)))
        return super().complete_many(pairs)


class ShiftWorker:
    """Everything in one event loop, as a served flow has it."""

    def __init__(self, url: str) -> None:
        self._nexus, self._runner = Recorded(url), asyncio.Runner()
        self._calls: list[tuple[str, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.close()
        self._nexus.close()

    def work(self, what: str, number: int) -> tuple[int, float, float]:
        """Do `number` tasks: how many were done, in how many seconds, and those of this process's CPU."""
        works: dict[str, Callable[[int], Awaitable[Done]]] = {
            shift.OBSERVED: self._observed,
            shift.EMPTY: _empty_tasks,
            shift.BACKGROUND: _background_tasks,
            shift.UNOBSERVED: self._unobserved,
            shift.ALONE: self._alone,
        }

        async def done() -> Done:
            return await works[what](number)

        cpu = time.process_time()
        return *self._runner.run(done()), time.process_time() - cpu

    async def _observed(self, number: int) -> Done:
        return await self._shift(number, "task")

    async def _unobserved(self, number: int) -> Done:
        self._nexus.calls.clear()
        done = await self._shift(number, "shift")
        self._calls = list(self._nexus.calls)
        return done

    async def _shift(self, number: int, observe: Any) -> Done:
        self._fill(number)
        with working_on(self._nexus):
            report: ShiftReport = await process_agent_tasks(AGENT, concurrency=CONCURRENCY, observe=observe)
        return report.completed, (report.finished_at - report.started_at).total_seconds()

    async def _alone(self, number: int) -> Done:
        """The calls of the last shift, one after another."""
        self._fill(number)
        began, held = time.perf_counter(), deque[Claim]()
        for verb, many in self._calls:
            if verb == "claim":
                held.extend(self._nexus.claim(AGENT, many, task_types=["noop"], start=True))
            else:
                self._nexus.complete_many([(held.popleft(), None) for _ in range(many)])
        return number - len(held), time.perf_counter() - began

    def _fill(self, number: int) -> None:
        self._nexus.add_tasks([{"task_type": "noop", "payload": {"n": 1}} for _ in range(number)])


@handler("noop")
async def _noop(_task: Task, _context: TaskContext) -> None:
    """Nothing."""


@task(cache_policy=NO_CACHE)
async def empty() -> None:
    """Nothing, as a Prefect task."""


@flow
async def empties(number: int) -> float:
    """So many empty tasks, `CONCURRENCY` side by side; the seconds."""
    left = iter(range(number))

    async def hand() -> None:
        for _ in left:
            await empty()

    began = time.perf_counter()
    await asyncio.gather(*(hand() for _ in range(CONCURRENCY)))
    return time.perf_counter() - began


async def _empty_tasks(number: int) -> Done:
    return number, await empties(number)


_ends: list[float] = []
"""When the background tasks ended."""


@task
async def later() -> None:
    """Nothing, in the background."""
    _ends.append(time.perf_counter())


def _serve() -> None:
    """What `later.serve()` does, until the process ends."""

    async def serve() -> None:
        # Prefect's decorator makes two things of one method, a coroutine here, which no type can say.
        starting: Any = TaskWorker(later, limit=CONCURRENCY).start()
        await starting

    asyncio.run(serve())


async def _background_tasks(number: int) -> Done:
    """Put them off while a task worker is at work, until all are done."""
    if not any(thread.name == SERVING for thread in threading.enumerate()):
        threading.Thread(target=_serve, name=SERVING, daemon=True).start()
        await asyncio.sleep(SUBSCRIBED_SECONDS)
    _ends.clear()
    left = iter(range(number))

    async def hand() -> None:
        for _ in left:
            await asyncio.to_thread(later.delay)

    began = time.perf_counter()
    await asyncio.gather(*(hand() for _ in range(CONCURRENCY)))
    last = time.perf_counter()
    while len(_ends) < number and time.perf_counter() - last < LOST_AFTER_SECONDS:
        await asyncio.sleep(0.1)
        last = max([last, *_ends])
    return len(_ends), max(_ends) - began
