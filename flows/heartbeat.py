"""Keeps a claim alive while its work goes on, and learns that the work must end.

A thread, not a task of the event loop: a handler that blocks the loop would otherwise lose its lease.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal

from nexus import Claim, TaskNexus
from nexus.errors import ClaimLost, TaskNotFound

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
    loop = asyncio.get_running_loop()
    pulse = pulse or Pulse()
    pulse.beat(claim, lease_seconds)
    over = threading.Event()

    def end(ending: Ending) -> None:
        if not over.is_set():
            over.set()
            loop.call_soon_threadsafe(on_end, ending)

    thread = threading.Thread(
        target=_beat,
        args=(nexus, claim, lease_seconds, take_note, over, end, pulse),
        name=f"lease {claim.task_id}",
        daemon=True,
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        await asyncio.to_thread(thread.join)
        pulse.stop(claim)


def _beat(
    nexus: TaskNexus,
    claim: Claim,
    lease_seconds: float,
    take_note: Callable[[], str | None],
    over: threading.Event,
    end: Callable[[Ending], None],
    pulse: Pulse,
) -> None:
    renewed = time.monotonic()
    note: str | None = None
    while not over.wait(lease_seconds / 3):
        note = take_note() or note  # kept until a heartbeat has written it
        try:
            if nexus.heartbeat(claim, note).cancel_requested:
                return end("cancelled")
            renewed, note = time.monotonic(), None
            pulse.beat(claim, lease_seconds)
        except (ClaimLost, TaskNotFound) as error:
            logger.warning("%s", error)
            return end("lost")
        except Exception as error:
            # Whatever it is: a thread that died of it would let the work go on without a lease.
            logger.warning("cannot renew the lease on %s: %s: %s", claim.task_id, type(error).__name__, error)
            if time.monotonic() - renewed > lease_seconds:
                return end("lost")
    return None
