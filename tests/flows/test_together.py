"""What is written together, where the event loop ends meanwhile: asyncio cancels every task at once then."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from flows.together import Together
from nexus import Claim

CLAIM: Any = object()


@pytest.mark.parametrize(
    ("seconds", "times"),
    [(0, 1), (0.05, 1), (0.15, 2)],
    ids=["before it writes", "while it writes", "while it waits for more to write"],
)
def test_whoever_waits_at_the_end_of_the_event_loop_is_answered(seconds: float, times: int) -> None:
    written: list[int] = []

    def write(_claims: Sequence[Claim], values: Sequence[int]) -> Sequence[None]:
        time.sleep(0.1)
        written.extend(values)
        return [None] * len(values)

    together: Together[None] = Together(write, lease_seconds=60, linger_seconds=0.1)

    async def hand(number: int) -> None:
        while True:
            await together.write(CLAIM, number)
            await asyncio.sleep(0)

    async def shift() -> list[asyncio.Task[None]]:
        hands = [asyncio.create_task(hand(number)) for number in range(3)]
        await asyncio.sleep(seconds)
        return hands

    hands = asyncio.run(shift())

    assert all(one.cancelled() for one in hands)
    assert sorted(written) == sorted([0, 1, 2] * times)


def test_what_cannot_be_written_of_one_keeps_no_other_from_being_written() -> None:
    """A row that somebody has spoilt fails the statement for all that are written with it."""
    written: list[int] = []

    def write(_claims: Sequence[Claim], values: Sequence[int]) -> Sequence[None]:
        if 3 in values:
            raise RuntimeError("CHECK constraint failed")
        written.extend(values)
        return [None] * len(values)

    together: Together[None] = Together(write, lease_seconds=60, linger_seconds=0.1)

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(together.write(CLAIM, number) for number in range(6)), return_exceptions=True)

    ends = asyncio.run(all_at_once())

    assert [type(end) for end in ends] == [*[type(None)] * 3, RuntimeError, *[type(None)] * 2]
    assert sorted(written) == [0, 1, 2, 4, 5]
