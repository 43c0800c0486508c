"""Completions of one shift, written together: whoever finishes while others are being written goes with the next."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from flows.observe import run_log
from flows.threads import outlast
from nexus import Claim, TaskNexus, TaskStatus
from nexus.errors import DatabaseUnavailable, NexusError

LINGER_SECONDS: Final = 0.02
"""How long the first of a batch waits for others, where lately there were some: not where work is slow."""

FULL: Final = 200
"""Completions in one transaction."""


@dataclass(slots=True)
class _Letter:
    claim: Claim
    result: Any
    answer: "asyncio.Future[TaskStatus]"
    deadline: float


class Outbox:
    """Completes in batches. A crash loses what was not written: those claims expire, and the tasks are done again."""

    def __init__(self, nexus: TaskNexus, lease_seconds: float) -> None:
        self._nexus, self._lease_seconds = nexus, lease_seconds
        self._waiting: list[_Letter] = []
        self._writing: asyncio.Task[None] | None = None
        self._lately = 0

    async def complete(self, claim: Claim, result: Any) -> TaskStatus:
        """As `TaskNexus.complete`, a moment later; waited for to its end, whoever cancels.

        Raises what that raises; `DatabaseUnavailable` only when the lease is over.
        """
        answer: asyncio.Future[TaskStatus] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Letter(claim, result, answer, time.monotonic() + self._lease_seconds))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="outbox")
        stopped = await outlast(answer)
        if stopped is not None and (present := asyncio.current_task()) is not None:
            present.cancel(*stopped.args)
        return answer.result()

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            if 1 < self._lately < FULL:
                await asyncio.sleep(LINGER_SECONDS)
            batch, self._waiting = self._waiting[:FULL], self._waiting[FULL:]
            self._lately = len(batch)
            try:
                ends: Sequence[TaskStatus | BaseException] = await loop.run_in_executor(None, self._insist, batch)
            except Exception as error:
                ends = [error] * len(batch)
            for letter, end in zip(batch, ends, strict=True):
                if isinstance(end, BaseException):
                    letter.answer.set_exception(end)
                else:
                    letter.answer.set_result(end)

    def _insist(self, batch: Sequence[_Letter]) -> list[TaskStatus | NexusError]:
        """Write until it is written or the last lease is over: what was done cost somebody money."""
        while True:
            try:
                return self._nexus.complete_many([(letter.claim, letter.result) for letter in batch])
            except DatabaseUnavailable as error:
                if time.monotonic() > max(letter.deadline for letter in batch):
                    raise
                run_log().warning("%s Trying again.", error)
                time.sleep(min(1.0, self._lease_seconds / 3))
