"""What a shift does to the process around it, and how it waits."""

import asyncio
import gc
import threading

import pytest

from flows.threads import COLLECTED_AFTER, end_of, rarely_collected


def test_the_garbage_collector_is_as_it_was_once_the_last_shift_is_over() -> None:
    before = gc.get_threshold()
    first, second = rarely_collected(), rarely_collected()
    with first:
        assert gc.get_threshold()[0] == COLLECTED_AFTER
        assert gc.get_freeze_count() > 0
        second.__enter__()
    assert gc.get_threshold()[0] == COLLECTED_AFTER, "another is still at work"
    second.__exit__(None, None, None)
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


def test_shifts_in_many_threads() -> None:
    before = gc.get_threshold()

    def work() -> None:
        for _ in range(200):
            with rarely_collected():
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


class TestTheEndOfSomething:
    @pytest.fixture
    async def something(self) -> "asyncio.Future[None]":
        return asyncio.get_running_loop().create_future()

    async def test_comes_while_it_is_waited_for(self, something: "asyncio.Future[None]") -> None:
        asyncio.get_running_loop().call_soon(something.set_result, None)
        assert await end_of(something, 60)

    async def test_is_there_already(self, something: "asyncio.Future[None]") -> None:
        something.set_result(None)
        assert await end_of(something, 0)

    async def test_is_an_error_or_a_cancellation_too(self, something: "asyncio.Future[None]") -> None:
        asyncio.get_running_loop().call_soon(something.cancel)
        assert await end_of(something)

    async def test_does_not_come_in_time(self, something: "asyncio.Future[None]") -> None:
        assert not await end_of(something, 0)
        assert not something.done(), "and what was waited for goes on"

    async def test_is_not_waited_for_by_who_is_cancelled(self, something: "asyncio.Future[None]") -> None:
        waiting = asyncio.ensure_future(end_of(something))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not something.done()
        something.set_result(None)
        await asyncio.sleep(0)  # nobody is woken any more
