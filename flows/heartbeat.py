"""Keeps a claim alive while its work goes on, and learns that the work must end."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from flows.leases import Ending, Kept, keep
from nexus import Claim, TaskNexus

__all__ = ["Ending", "Pulse", "heartbeat"]


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

    `cancelled`: somebody cancelled the task. `lost`: the claim is another's, or the nexus could not be asked before
    its lease was over, which is the same to everybody else. `pulse` is kept as long as the work goes on.
    """
    pulse = pulse or Pulse()
    pulse.beat(claim, lease_seconds)
    loop = asyncio.get_running_loop()
    kept = Kept(
        claim,
        lease_seconds,
        take_note,
        on_renewed=lambda: pulse.beat(claim, lease_seconds),
        on_end=lambda end: loop.call_soon_threadsafe(on_end, end),
    )
    keeper = keep(nexus, kept)
    try:
        yield
    finally:
        if not keeper.drop(kept):
            await asyncio.to_thread(keeper.outwait, kept)  # no renewal comes after the end
        pulse.stop(claim)
