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


@asynccontextmanager
async def heartbeat(
    nexus: TaskNexus,
    claim: Claim,
    *,
    lease_seconds: float,
    take_note: Callable[[], str | None],
    on_end: Callable[[Ending], None],
) -> AsyncIterator[None]:
    """Renew `claim` three times per lease. `on_end` is called on the event loop, once, when work must stop.

    `cancelled`: somebody cancelled the task. `lost`: the claim is another's, or could not be renewed before
    its lease was over, which is the same to everybody else.
    """
    loop = asyncio.get_running_loop()
    over = threading.Event()

    def end(ending: Ending) -> None:
        if not over.is_set():
            over.set()
            loop.call_soon_threadsafe(on_end, ending)

    thread = threading.Thread(
        target=_beat,
        args=(nexus, claim, lease_seconds, take_note, over, end),
        name=f"lease {claim.task_id}",
        daemon=True,
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        await asyncio.to_thread(thread.join)


def _beat(
    nexus: TaskNexus,
    claim: Claim,
    lease_seconds: float,
    take_note: Callable[[], str | None],
    over: threading.Event,
    end: Callable[[Ending], None],
) -> None:
    renewed = time.monotonic()
    note: str | None = None
    while not over.wait(lease_seconds / 3):
        note = take_note() or note  # kept until a heartbeat has written it
        try:
            if nexus.heartbeat(claim, note).cancel_requested:
                return end("cancelled")
            renewed, note = time.monotonic(), None
        except (ClaimLost, TaskNotFound) as error:
            logger.warning("%s", error)
            return end("lost")
        except Exception as error:
            # Whatever it is: a thread that died of it would let the work go on without a lease.
            logger.warning("cannot renew the lease on %s: %s: %s", claim.task_id, type(error).__name__, error)
            if time.monotonic() - renewed > lease_seconds:
                return end("lost")
    return None
