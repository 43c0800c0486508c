"""A worker process of one contender; `benchmarks.child` runs it, `benchmarks.throughput` tells it what to do."""

import gc
import time
from contextlib import ExitStack
from typing import Any, Self

from benchmarks.contenders import CONTENDERS, Work


class Worker:
    """Makes, fills and works at one database."""

    def __init__(self, contender: str, url: str, agent_id: str, batch: int) -> None:
        self._contender, self._url, self._agent_id, self._batch = CONTENDERS[contender].load(), url, agent_id, batch
        self._stack = ExitStack()
        self._work: Work | None = None

    def make(self) -> None:
        """Make the tables."""
        self._contender.make(self._url)

    def fill(self, number: int) -> None:
        """Add tasks."""
        self._contender.fill(self._url, number)

    def open(self) -> None:
        """Do what is done once a process."""
        self._work = self._stack.enter_context(self._contender.open(self._url, self._agent_id, self._batch))

    def work(self) -> dict[str, Any]:
        """Work until nothing is left: how many, when (seconds of the wall), and at how many seconds of CPU."""
        assert self._work is not None
        gc.collect()
        began, cpu = time.time(), time.process_time()
        done = self._work()
        return {"done": done, "began": began, "ended": time.time(), "cpu": time.process_time() - cpu}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
