"""A run is told to stop while Prefect would raise in the middle of anything: its work ends in order all the same."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import pytest
from prefect.exceptions import TerminationSignal
from prefect.utilities.engine import can_ack_control_intent, capture_sigterm

from flows import signals
from flows.signals import stopped_in_order


def tell_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def in_a_flow_run() -> Iterator[None]:
    """Prefect has put its handler in place, as around every flow run; what it had sent on to the process ends here."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with capture_sigterm():
        yield
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    signal.signal(signal.SIGTERM, before)


async def worked() -> str:
    """How a run ends that works until it is stopped."""
    try:
        with stopped_in_order():
            await asyncio.sleep(20)
    except TerminationSignal:
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling(), "what comes after it is not cancelled"
        return "stopped"
    return "not stopped"


async def test_in_a_callback_of_the_loop() -> None:
    done = []

    def call_back() -> None:
        tell_to_stop()
        done.append("what it was there for")

    asyncio.get_running_loop().call_later(0.01, call_back)
    assert await worked() == "stopped"
    assert done == ["what it was there for"]


async def test_in_another_task() -> None:
    async def strike() -> str:
        tell_to_stop()
        await asyncio.sleep(0.05)
        return "went on"

    other = asyncio.create_task(strike())
    assert await worked() == "stopped"
    assert await other == "went on"


async def test_while_nothing_happens() -> None:
    asyncio.get_running_loop().run_in_executor(None, lambda: (time.sleep(0.05), tell_to_stop()))
    assert await worked() == "stopped"


async def test_again_and_again_it_is_stopped_once() -> None:
    tidied = []

    async def work() -> None:
        try:
            with stopped_in_order():
                try:
                    await asyncio.sleep(20)
                finally:
                    tell_to_stop()
                    await asyncio.sleep(0.05)
                    tell_to_stop()
                    tidied.append("all of it")
        except TerminationSignal:
            tidied.append("stopped")

    asyncio.get_running_loop().call_later(0.01, tell_to_stop)
    await work()
    assert tidied == ["all of it", "stopped"]


async def test_with_the_last_step_of_the_work() -> None:
    with pytest.raises(TerminationSignal), stopped_in_order():
        tell_to_stop()


async def test_of_two_runs_both_are_stopped() -> None:
    asyncio.get_running_loop().call_later(0.01, tell_to_stop)
    assert await asyncio.gather(worked(), worked()) == ["stopped", "stopped"]


async def test_of_two_runs_one_has_ended_before() -> None:
    first, second = asyncio.create_task(worked()), asyncio.create_task(worked())
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled(), "by its caller, and not by a signal"
    tell_to_stop()
    assert await second == "stopped"


async def test_a_run_that_ends_at_this_moment_beside_another_has_ended() -> None:
    async def work() -> str:
        with stopped_in_order():
            await asyncio.sleep(0)
            tell_to_stop()
        await asyncio.sleep(0.05)
        return "ended"

    assert await asyncio.gather(worked(), work()) == ["stopped", "ended"]


async def test_a_loop_that_is_held_up_is_struck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "BLOCKED_SECONDS", 0.05)
    struck = []

    async def hold_up() -> None:
        tell_to_stop()
        try:
            time.sleep(20)  # noqa: ASYNC251 - what it ought not to do
        except TerminationSignal:
            struck.append("at last")

    other = asyncio.create_task(hold_up())
    assert await worked() == "stopped"
    assert struck == ["at last"]
    await other


async def test_prefects_runner_may_cancel_meanwhile_and_has_its_own_handler_back_then() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopped_in_order():
        assert can_ack_control_intent()
        assert signal.getsignal(signal.SIGTERM) != before
        with capture_sigterm():  # as a flow inside the flow does
            assert can_ack_control_intent()
        assert can_ack_control_intent()
    assert signal.getsignal(signal.SIGTERM) is before
    assert can_ack_control_intent()


async def test_who_takes_the_signals_himself_goes_on_to_do_so() -> None:
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    try:
        with stopped_in_order():
            tell_to_stop()
            await asyncio.sleep(0)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [signal.SIGTERM]
