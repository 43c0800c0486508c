"""What the attempts of a shift write, written together: who comes while some are being written goes with the next."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from flows.observe import run_log
from flows.threads import outlast
from nexus import Claim
from nexus.errors import DatabaseUnavailable, NexusError

T = TypeVar("T")

FULL: Final = 200
"""What goes into one transaction."""

Write = Callable[[Sequence[Claim], Sequence[Any]], Sequence[T | NexusError]]
"""Writes something of each claim, and a value that goes with it; what came of each, in order."""


@dataclass(slots=True)
class _Letter(Generic[T]):
    claim: Claim
    value: Any
    answer: "asyncio.Future[T]"
    deadline: float


class Together(Generic[T]):
    """Writes in batches. What a crash kept from being written has not happened: the claims expire."""

    def __init__(self, write: Write[T], lease_seconds: float, linger_seconds: float) -> None:
        """`linger_seconds`: how long the first of a batch waits for others, where lately there were some; so not where
        work is slow."""
        self._write_all, self._lease_seconds, self._linger = write, lease_seconds, linger_seconds
        self._waiting: list[_Letter[T]] = []
        self._is_writing = False
        self._lately = 0

    async def write(self, claim: Claim, value: Any) -> T:
        """As the verb for one, a moment later; waited for to its end, whoever cancels.

        Raises what that raises; `DatabaseUnavailable` only when the lease is over.
        """
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Letter(claim, value, answer, time.monotonic() + self._lease_seconds))
        if not self._is_writing:
            self._is_writing = True
            self._collect()
        stopped = await outlast(answer)
        if stopped is not None and (present := asyncio.current_task()) is not None:
            present.cancel(*stopped.args)
        return answer.result()

    # Callbacks, no task: a loop that ends cancels every task at once, and then nobody would be answered any more.

    def _collect(self) -> None:
        linger = self._linger if 1 < self._lately < FULL else 0
        asyncio.get_running_loop().call_later(linger, self._post)

    def _post(self) -> None:
        batch, self._waiting = self._waiting[:FULL], self._waiting[FULL:]
        self._lately = len(batch)
        writing = asyncio.get_running_loop().run_in_executor(None, self._insist, batch)
        writing.add_done_callback(lambda written: self._answer(batch, written))

    def _answer(self, batch: Sequence[_Letter[T]], written: "asyncio.Future[Sequence[T | Exception]]") -> None:
        error = written.exception()
        ends: Sequence[T | BaseException] = [error] * len(batch) if error is not None else written.result()
        for letter, end in zip(batch, ends, strict=True):
            if isinstance(end, BaseException):
                letter.answer.set_exception(end)
            else:
                letter.answer.set_result(end)
        self._is_writing = bool(self._waiting)
        if self._is_writing:
            self._collect()

    def _insist(self, batch: Sequence[_Letter[T]]) -> Sequence[T | Exception]:
        """Write until it is written or the last lease is over: what was done cost somebody money."""
        while True:
            try:
                return self._write_all([letter.claim for letter in batch], [letter.value for letter in batch])
            except DatabaseUnavailable as error:
                if time.monotonic() > max(letter.deadline for letter in batch):
                    raise
                run_log().warning("%s Trying again.", error)
                time.sleep(min(1.0, self._lease_seconds / 3))
            except Exception:
                if len(batch) == 1:
                    raise
                return [self._alone(letter) for letter in batch]

    def _alone(self, letter: _Letter[T]) -> T | Exception:
        """What is wrong with one keeps no other from being written."""
        try:
            return self._insist([letter])[0]
        except Exception as error:
            return error
