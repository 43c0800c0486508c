"""An agent that waits as a shift does: for the bell, and at the latest for its poll."""

import asyncio
import queue
import threading
import time
from contextlib import suppress
from typing import Self

from flows.threads import ringing, to_the_end
from nexus import NexusSettings, TaskNexus

POLL_SECONDS = 1.0
"""As `flows.shift`, which would import Prefect."""

PATIENCE_SECONDS = 30


class Waiter:
    """Claims whatever comes, and completes it."""

    def __init__(self, url: str) -> None:
        self._nexus = TaskNexus(url, settings=NexusSettings(database_url=url))
        self._picked: queue.Queue[float] = queue.Queue()
        self._loop, self._stir, self._over = asyncio.new_event_loop(), asyncio.Event(), False
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._wait(),))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._loop.call_soon_threadsafe(self._stir.set)
        self._thread.join()
        self._nexus.close()

    def ready(self) -> None:
        """Answered when the tables are there."""

    def picked(self) -> float:
        """The moment at which the next task was claimed; waits for it."""
        return self._picked.get(timeout=PATIENCE_SECONDS)

    async def _wait(self) -> None:
        async with ringing(self._nexus, self._stir):
            while not self._over:
                self._stir.clear()
                for claim in await to_the_end(self._nexus.claim, "Waiter", start=True):
                    self._picked.put(time.monotonic())
                    await to_the_end(self._nexus.complete, claim)
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._stir.wait()


class Adder:
    """Adds tasks one by one."""

    def __init__(self, url: str) -> None:
        self._nexus = TaskNexus(url, settings=NexusSettings(database_url=url))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._nexus.close()

    def add(self) -> float:
        """Add one; the moment at which that began."""
        began = time.monotonic()
        self._nexus.add_task({"task_type": "noop", "payload": {"n": 1}})
        return began
