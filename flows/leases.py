"""Renews what a process holds: a thread for each board, and one statement for all that is due there.

Threads, not tasks of the event loop: a handler that blocks the loop would otherwise lose its lease. One for each board:
a database that is away, or slow, costs what is held on another nothing.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal

from nexus import Claim, TaskNexus
from nexus.errors import ClaimLost, DatabaseUnavailable, InvalidTask, TaskBusy, TaskNotFound
from nexus.schemas import Heartbeat

logger = logging.getLogger("nexus.heartbeat")

Ending = Literal["cancelled", "lost"]

BUSY_SECONDS: Final = 1.0
"""After which a claim is shown again whose task somebody else was writing."""

IDLE_SECONDS: Final = 5.0
"""How long the thread of a board on which nothing is held any more waits for something."""


@dataclass(eq=False, slots=True)
class Kept:
    """A claim that is renewed, three times a lease."""

    claim: Claim
    lease_seconds: float
    take_note: Callable[[], str | None]
    on_renewed: Callable[[], object]
    on_end: Callable[[Ending], object]
    renewed: float = field(default_factory=time.monotonic)
    due: float = field(init=False)
    note: str | None = None
    is_over: bool = False
    is_busy: bool = False
    """It is being renewed at this moment."""

    def __post_init__(self) -> None:
        self.due = self.renewed + self.lease_seconds / 3

    def look(self) -> None:
        """Take the newest note, which is kept until it is written; and mind that this renewal may come to nothing."""
        self.due = time.monotonic() + self.lease_seconds / 6
        try:
            self.note = self.take_note() or self.note
        except Exception as error:
            logger.warning("no note on %s: %s: %s", self.claim.task_id, type(error).__name__, error)

    def hear(self, answer: Heartbeat | Exception) -> Ending | None:
        """What the nexus said, or did not say; why the work must stop, where it must.

        As long as the nexus says that the claim is held it is, however long that took; where it cannot be asked, the
        clock decides.
        """
        present = time.monotonic()
        match answer:
            case Heartbeat(cancel_requested=True):
                return "cancelled"
            case Heartbeat():
                self.renewed, self.due, self.note = present, present + self.lease_seconds / 3, None
                if not self.is_over:
                    self.on_renewed()
            case ClaimLost() | TaskNotFound():
                logger.warning("%s", answer)
                return "lost"
            case TaskBusy():
                self.due = present + min(BUSY_SECONDS, self.lease_seconds / 6)
            case InvalidTask() if self.note is not None:
                # What is said about the work must not end it: the lease is renewed without that.
                logger.warning("a note on %s is not kept", self.claim.task_id)
                self.note, self.due = None, present
            case _ if present - self.renewed > self.lease_seconds:
                return "lost"
        return None


class Keeper:
    """Renews what is held on one board."""

    def __init__(self, nexus: TaskNexus) -> None:
        self.nexus = nexus
        self._kept: set[Kept] = set()
        self._change = threading.Condition(_guard)
        self._idle_since = time.monotonic()
        self._wakes_at = 0.0
        # It must not keep a process from ending.
        self.thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def add(self, kept: Kept) -> None:
        """Renew it from now on. For who holds the guard."""
        self._kept.add(kept)
        if kept.due < self._wakes_at:
            self._change.notify_all()  # who is notified may be one who waits for the end of a renewal

    def drop(self, kept: Kept) -> bool:
        """Renew it no more; False where that is being done at this moment."""
        with _guard:
            self._kept.discard(kept)
            self._idle_since = time.monotonic()
            kept.is_over = True
            return not kept.is_busy

    def outwait(self, kept: Kept) -> None:
        """Wait until it is not being renewed any more."""
        with self._change:
            self._change.wait_for(lambda: not kept.is_busy)

    def _run(self) -> None:
        try:
            while batch := self._next():
                endings: dict[Kept, Ending] = {}
                try:
                    endings = self._renew(batch)
                except Exception:  # a bug of ours must not end the thread: the work would go on without a lease
                    logger.exception("leases on %s were not renewed", _names(batch))
                finally:
                    self._tell(batch, endings)
        finally:
            with _guard:
                if _keepers.get(self.nexus) is self:
                    del _keepers[self.nexus]

    def _next(self) -> Sequence[Kept]:
        """Wait for a claim that is due; with it go those that would soon be. None at all: nothing is held any more."""
        with self._change:
            while True:
                present = time.monotonic()
                if any(kept.due <= present for kept in self._kept):
                    batch = [kept for kept in self._kept if kept.due - kept.lease_seconds / 6 <= present]
                    for kept in batch:
                        kept.is_busy = True
                    return batch
                # Whoever is due later than this need not wake us.
                self._wakes_at = min((kept.due for kept in self._kept), default=self._idle_since + IDLE_SECONDS)
                if not self._kept and self._wakes_at <= present:
                    del _keepers[self.nexus]  # under the guard: who comes now begins another
                    return []
                self._change.wait(self._wakes_at - present)

    def _renew(self, batch: Sequence[Kept]) -> dict[Kept, Ending]:
        for kept in batch:
            kept.look()
        heard = [(kept, kept.hear(answer)) for kept, answer in zip(batch, self._answers(batch), strict=True)]
        return {kept: ending for kept, ending in heard if ending is not None}

    def _answers(self, batch: Sequence[Kept]) -> Sequence[Heartbeat | Exception]:
        try:
            return self.nexus.heartbeat_many([(kept.claim, kept.note) for kept in batch])
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, DatabaseUnavailable):
                # One that something is wrong with costs no other its lease.
                return [answer for kept in batch for answer in self._answers([kept])]
            logger.warning("cannot renew the lease on %s: %s: %s", _names(batch), type(error).__name__, error)
            return [error] * len(batch)

    def _tell(self, batch: Sequence[Kept], endings: dict[Kept, Ending]) -> None:
        with self._change:
            for kept in batch:
                kept.is_busy = False
            self._change.notify_all()
            for kept, ending in endings.items():
                if not kept.is_over:
                    self._kept.discard(kept)
                    with suppress(RuntimeError):  # its loop is closed: nobody works on it any more
                        kept.on_end(ending)


def _names(batch: Sequence[Kept]) -> str:
    first = batch[0].claim.task_id
    return first if len(batch) == 1 else f"{first} and {len(batch) - 1} more"


_guard = threading.Lock()
_keepers: dict[TaskNexus, Keeper] = {}


def keep(nexus: TaskNexus, kept: Kept) -> Keeper:
    """Renew a claim on this board until its keeper is told to `drop` it."""
    with _guard:
        keeper = _keepers.get(nexus)
        if keeper is None:
            keeper = Keeper(nexus)
            keeper.thread.start()
            _keepers[nexus] = keeper
        keeper.add(kept)
        return keeper


def _forget() -> None:
    """In a process that was forked there are no threads, and what its parent holds is not its own."""
    global _guard  # it may be locked for ever
    _guard = threading.Lock()
    _keepers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
