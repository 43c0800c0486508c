"""Calls of the nexus from the event loop: in a thread, and never left half-watched."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(call: Callable[[], T], *, undo: Callable[[T], object] | None = None) -> T:
    """Run a blocking call in a thread. A cancellation waits for its end, and passes what it gave to `undo`.

    A thread cannot be interrupted: a claim that is being written when its shift is cancelled will be there.
    """
    running = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        if undo is not None and running.exception() is None:
            await asyncio.shield(asyncio.to_thread(undo, running.result()))
        raise
