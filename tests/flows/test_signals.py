"""A run is told to stop while Prefect would raise in the middle of anything: its work ends in order all the same."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

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


async def at_once() -> None:
    """Nothing is to be tidied."""


async def worked(tidy: Callable[[], Awaitable[None]] = at_once) -> str:
    """How a run ends that works until it is stopped, and then tidies."""
    try:
        with stopped_in_order():
            try:
                await asyncio.sleep(20)
            finally:
                await tidy()
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
    threading.Timer(0.05, tell_to_stop).start()
    assert await worked() == "stopped"


async def test_again_and_again_it_is_stopped_once() -> None:
    tidied = []

    async def tidy() -> None:
        tell_to_stop()
        await asyncio.sleep(0.05)
        tell_to_stop()
        tidied.append("all of it")

    asyncio.get_running_loop().call_later(0.01, tell_to_stop)
    assert await worked(tidy) == "stopped"
    assert tidied == ["all of it"]


async def test_with_the_last_step_of_the_work() -> None:
    with pytest.raises(TerminationSignal), stopped_in_order():
        tell_to_stop()


async def test_of_two_runs_both_are_stopped() -> None:
    asyncio.get_running_loop().call_later(0.01, tell_to_stop)
    assert [*await asyncio.gather(worked(), worked())] == ["stopped", "stopped"]


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

    assert [*await asyncio.gather(worked(), work())] == ["stopped", "ended"]


async def test_a_run_that_begins_while_another_is_stopping_is_stopped_too() -> None:
    first = asyncio.create_task(worked(lambda: asyncio.sleep(0.05)))
    await asyncio.sleep(0.01)
    tell_to_stop()
    await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        assert [*await asyncio.gather(first, worked())] == ["stopped", "stopped"]


async def test_work_that_does_not_mind_it_is_over_all_the_same() -> None:
    async def work() -> None:
        with stopped_in_order(), suppress(asyncio.CancelledError):
            await asyncio.sleep(20)

    asyncio.get_running_loop().call_later(0.01, tell_to_stop)
    with pytest.raises(TerminationSignal):
        await work()
    await asyncio.sleep(0.01)


async def hold_up(seconds: float = 20) -> str:
    """What no coroutine ought to do."""
    try:
        time.sleep(seconds)  # noqa: ASYNC251
    except TerminationSignal:
        return "struck"
    return "not struck"


async def struck_after(seconds: float) -> str:
    tell_to_stop()
    return await hold_up(seconds)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "BLOCKED_SECONDS", 0.05)


async def test_a_loop_that_is_held_up_is_struck(impatient: None) -> None:
    other = asyncio.create_task(struck_after(20))
    assert await worked() == "stopped"
    assert await other == "struck"


async def test_what_holds_up_the_loop_while_it_is_stopped_is_struck_by_the_next_signal(impatient: None) -> None:
    said = []

    async def tidy_badly() -> None:
        threading.Timer(0.2, tell_to_stop).start()
        said.append(await hold_up())

    asyncio.get_running_loop().call_later(0.01, tell_to_stop)
    assert await worked(tidy_badly) == "stopped"
    assert said == ["struck"]


async def test_what_was_struck_itself_is_not_cancelled_as_well(impatient: None) -> None:
    tidied = []
    with pytest.raises(TerminationSignal), stopped_in_order():
        try:
            tell_to_stop()
            time.sleep(20)  # noqa: ASYNC251
        finally:
            await asyncio.sleep(0.05)
            tidied.append("all of it")
    assert tidied == ["all of it"]


async def test_who_was_struck_has_as_long_again_to_give_way(impatient: None) -> None:
    async def struck_again() -> list[str]:
        said = [await struck_after(20)]
        return [*said, await struck_after(0.02)]

    other = asyncio.create_task(struck_again())
    assert await worked() == "stopped"
    assert await other == ["struck", "not struck"]


async def test_a_run_after_one_that_was_struck_is_stopped_in_order(impatient: None) -> None:
    for _ in range(2):
        other = asyncio.create_task(struck_after(20))
        assert await worked() == "stopped"
        assert await other == "struck"
        asyncio.get_running_loop().call_later(0.01, tell_to_stop)
        assert await worked() == "stopped"


async def test_a_signal_that_is_taken_up_late_but_in_time_strikes_nobody(impatient: None) -> None:
    """Neither the run, nor what comes after it: nothing is sent that nobody waits for."""
    assert [*await asyncio.gather(worked(), struck_after(0.02))] == ["stopped", "not struck"]
    with stopped_in_order():
        await asyncio.sleep(0.2)


async def test_outside_of_the_main_thread_work_goes_on_as_ever() -> None:
    async def work() -> str:
        with stopped_in_order():
            await asyncio.sleep(0)
        return "done"

    before = signal.getsignal(signal.SIGTERM)
    assert await asyncio.to_thread(asyncio.run, work()) == "done"
    with stopped_in_order():
        during = signal.getsignal(signal.SIGTERM)
        assert await asyncio.to_thread(asyncio.run, work()) == "done"
        assert signal.getsignal(signal.SIGTERM) is during
    assert signal.getsignal(signal.SIGTERM) is before


FORKING = """
import asyncio, multiprocessing, os, signal, sys, time
from prefect.utilities.engine import capture_sigterm
from tests.flows.test_signals import tell_to_stop, worked
from flows.signals import stopped_in_order

def sleep():
    time.sleep(20)

def work():
    async def struck():
        asyncio.get_running_loop().call_later(0.01, tell_to_stop)
        return await worked()

    assert asyncio.run(struck()) == "stopped"

async def fork(does, kills):
    with stopped_in_order():
        child = multiprocessing.get_context("fork").Process(target=does)
        child.start()
        await asyncio.sleep(0.3)  # at once Python itself would lose it, in what it does after a fork
        if kills:
            os.kill(child.pid, signal.SIGTERM)
        await asyncio.to_thread(child.join, 20)
        return child.exitcode

signal.signal(signal.SIGTERM, signal.SIG_IGN)
with capture_sigterm():
    assert asyncio.run(fork(sleep, True)) == 1, "it ends, by Prefect's exception"
    assert asyncio.run(fork(work, False)) == 0, "a run of its own is stopped in order"
"""
"""A process that forks others amid a run. Not the tests' own, of which a fork would inherit who knows what."""


def test_a_process_that_is_forked_in_a_run_ends_when_it_is_told_to() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr


async def test_nothing_of_it_is_left(impatient: None) -> None:
    before = set(threading.enumerate())
    for _ in range(3):
        with stopped_in_order():
            await asyncio.sleep(0)
            assert set(threading.enumerate()) - before
    await asyncio.sleep(0.1)
    assert set(threading.enumerate()) - before == set()


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
