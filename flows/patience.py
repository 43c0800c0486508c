"""Waiting for a database that is away for a moment, by flows whose work is safe to repeat."""

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from flows.observe import run_log
from nexus.errors import DatabaseUnavailable

T = TypeVar("T")

TRIES: Final = 3

PAUSE_SECONDS: Final = 5.0
"""A pass is idempotent, so a database that was away for a moment costs nothing but the wait."""


async def patiently(work: Callable[[], T]) -> T:
    """Do `work` in a thread, again where the database was away. Raises `DatabaseUnavailable` where it stays away."""
    # Not by Prefect's flow retries: with them 3.8.8 raises the first error even when the second try went well.
    for _ in range(TRIES - 1):
        try:
            return await asyncio.to_thread(work)
        except DatabaseUnavailable as error:
            run_log().warning("%s Trying again.", error)
            await asyncio.sleep(PAUSE_SECONDS)
    return await asyncio.to_thread(work)
