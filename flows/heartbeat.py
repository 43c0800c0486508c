"""Keeps claims alive while their work goes on, and learns that the work must end.

A thread, not a task of the event loop: a handler that blocks the loop would otherwise lose its lease.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from nexus import Claim, TaskNexus
from nexus.errors import ClaimLost, InvalidTask, TaskNotFound

logger = logging.getLogger("nexus.heartbeat")

Ending = Literal["cancelled", "lost"]


class Pulse:
    """Whether an agent can renew what it holds. One that cannot takes nothing more."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, int], float] = {}

    def beat(self, claim: Claim, lease_seconds: float) -> None:
        """The claim holds for so long from now."""
        self._until[claim.task_id, claim.claim_no] = time.monotonic() + lease_seconds

    def stop(self, claim: Claim) -> None:
        """Nobody works on it any more."""
        self._until.pop((claim.task_id, claim.claim_no), None)

    @property
    def is_weak(self) -> bool:
        """It works on something whose lease is over: the database is away, the claim lost, the host was frozen."""
        return any(until < time.monotonic() for until in list(self._until.values()))


@asynccontextmanager
async def heartbeat(
    nexus: TaskNexus,
    claim: Claim,
    *,
    lease_seconds: float,
    take_note: Callable[[], str | None],
    on_end: Callable[[Ending], None],
    pulse: Pulse | None = None,
) -> AsyncIterator[None]:
    """Renew `claim` three times per lease. `on_end` is called on the event loop, once, when work must stop.

    `cancelled`: somebody cancelled the task. `lost`: the claim is another's, or could not be renewed before
    its lease was over, which is the same to everybody else. `pulse` is kept as long as the work goes on.
    """
    pulse = pulse or Pulse()
    pulse.beat(claim, lease_seconds)
    loop = asyncio.get_running_loop()
    kept = _Kept(nexus, claim, lease_seconds, take_note, lambda end: loop.call_soon_threadsafe(on_end, end), pulse)
    _keeper.keep(kept)
    try:
        yield
    finally:
        if not _keeper.drop(kept):
            await asyncio.to_thread(_keeper.outwait, kept)  # no renewal comes after the end
        pulse.stop(claim)


@dataclass(eq=False, slots=True)
class _Kept:
    """A claim that is renewed."""

    nexus: TaskNexus
    claim: Claim
    lease_seconds: float
    take_note: Callable[[], str | None]
    end: Callable[[Ending], object]
    pulse: Pulse
    renewed: float = field(default_factory=time.monotonic)
    due: float = field(init=False)
    note: str | None = None
    is_over: bool = False
    is_busy: bool = False
    """It is being renewed at this moment."""

    def __post_init__(self) -> None:
        self.due = self.renewed + self.lease_seconds / 3

    def renew(self) -> Ending | None:
        """One heartbeat; why the work must stop, where it must. Never raises: the thread would die of it."""
        self._look()
        try:
            if self.nexus.heartbeat(self.claim, self.note).cancel_requested:
                return "cancelled"
        except (ClaimLost, TaskNotFound) as error:
            logger.warning("%s", error)
            return "lost"
        except Exception as error:
            if isinstance(error, InvalidTask) and self.note is not None:
                # What is said about the work must not end it: the lease is renewed without that.
                logger.warning("a note on %s is not kept: %s", self.claim.task_id, error)
                self.note, self.due = None, time.monotonic()
                return None
            # Whatever it is: a thread that died of it would let the work go on without a lease.
            logger.warning("cannot renew the lease on %s: %s: %s", self.claim.task_id, type(error).__name__, error)
            if time.monotonic() - self.renewed > self.lease_seconds:
                return "lost"
        else:
            self.renewed, self.note = time.monotonic(), None
            if not self.is_over:
                self.pulse.beat(self.claim, self.lease_seconds)
        self.due = time.monotonic() + self.lease_seconds / 3
        return None

    def _look(self) -> None:
        """Take the newest note; it is kept until a heartbeat has written it."""
        try:
            self.note = self.take_note() or self.note
        except Exception as error:
            logger.warning("no note on %s: %s: %s", self.claim.task_id, type(error).__name__, error)


class _Keeper:
    """One thread renews every claim of the process: to keep one costs an entry, not a thread."""

    def __init__(self) -> None:
        self._kept: set[_Kept] = set()
        self._change = threading.Condition()
        self._wakes_at = 0.0
        self._thread: threading.Thread | None = None

    def keep(self, kept: _Kept) -> None:
        with self._change:
            self._kept.add(kept)
            if self._thread is None or not self._thread.is_alive():  # it does not survive a fork
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._wakes_at = 0.0
                self._thread.start()
            elif kept.due < self._wakes_at:
                self._change.notify()

    def drop(self, kept: _Kept) -> bool:
        """Renew it no more; False where that is being done at this moment."""
        with self._change:
            self._kept.discard(kept)
            kept.is_over = True
            return not kept.is_busy

    def outwait(self, kept: _Kept) -> None:
        """Wait until it is not being renewed any more."""
        with self._change:
            self._change.wait_for(lambda: not kept.is_busy)

    def _run(self) -> None:
        while True:
            kept = self._next()
            ending = kept.renew()
            with self._change:
                kept.is_busy = False
                self._change.notify_all()
                if ending is not None and not kept.is_over:
                    self._kept.discard(kept)
                    with suppress(RuntimeError):  # its loop is closed: nobody works on it any more
                        kept.end(ending)

    def _next(self) -> _Kept:
        """Wait for the next claim that is due."""
        with self._change:
            while True:
                first = min(self._kept, key=lambda kept: kept.due, default=None)
                now = time.monotonic()
                if first is not None and first.due <= now:
                    first.is_busy = True
                    return first
                # Whoever is due later than this need not wake us.
                self._wakes_at = first.due if first is not None else float("inf")
                self._change.wait(None if first is None else first.due - now)


_keeper = _Keeper()
