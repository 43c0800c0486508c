"""One attempt, from claim to close, without Prefect: however it ends, the board knows, and nothing is left held."""

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.handlers import GiveUp, Retry, TaskContext
from flows.runner import NoHandler, run_attempt
from nexus import Attempt, AttemptOutcome, RetryPolicy, Task, TaskNexus, TaskStatus
from nexus.errors import ClaimLost, DatabaseUnavailable

from .conftest import ONCE, Handles, MakeNexus, claimed, until

ROOT = Path(__file__).parents[2]
PENDING, FAILED = TaskStatus.PENDING, TaskStatus.FAILED


def last_attempt(nexus: TaskNexus, task_id: str = "EP07-T3") -> Attempt:
    return nexus.attempts(task_id)[-1]


def task_of(nexus: TaskNexus, task_id: str = "EP07-T3") -> Task:
    task = nexus.get_task_by_id(task_id)
    assert task is not None
    return task


class Signals:
    """Events that a handler in any thread and the test tell each other."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    async def until_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, 20)


@pytest.fixture
def signals() -> Iterator[Signals]:
    both = Signals()
    yield both
    both.go.set()  # a thread that still waits must not outlive its test


# -- what a handler returns and raises ------------------------------------------------------------------------


async def summarise(task: Task, context: TaskContext) -> Any:
    return {"words": len(task.description.split()), "by": context.agent_id}


def summarise_in_a_thread(task: Task, context: TaskContext) -> Any:
    assert threading.current_thread() is not threading.main_thread()
    return {"words": len(task.description.split()), "by": context.agent_id}


def summarise_sooner_or_later(task: Task, context: TaskContext) -> Any:
    return summarise(task, context)


class Summariser:
    async def __call__(self, task: Task, context: TaskContext) -> Any:
        return await summarise(task, context)


@pytest.mark.parametrize("handler", [summarise, summarise_in_a_thread, summarise_sooner_or_later, Summariser()])
async def test_a_finished_task_keeps_its_result_and_who_made_it(
    nexus: TaskNexus, handles: Handles, handler: Any
) -> None:
    handles("summarise", handler)
    claim = claimed(nexus, description="three little words")

    done = await run_attempt(nexus, claim, run_ref={"flow_run_id": "f-1", "run_count": 1})

    assert (done.outcome, done.number, done.error) == (AttemptOutcome.COMPLETED, 1, None)
    assert done.status == TaskStatus.COMPLETED
    assert task_of(nexus).result == {"words": 3, "by": "Agent-1"}
    attempt = last_attempt(nexus)
    assert attempt.outcome == AttemptOutcome.COMPLETED
    assert attempt.finished_at is not None
    assert attempt.result == task_of(nexus).result
    assert attempt.run_ref == {"flow_run_id": "f-1", "run_count": 1}


async def test_a_task_that_asks_for_review_is_handed_to_it(nexus: TaskNexus, handles: Handles) -> None:
    handles("summarise", summarise)

    done = await run_attempt(nexus, claimed(nexus, requires_review=True))

    assert done.outcome == AttemptOutcome.COMPLETED
    assert task_of(nexus).status == TaskStatus.IN_REVIEW


async def test_what_a_handler_is_told(nexus: TaskNexus, handles: Handles) -> None:
    told: list[TaskContext] = []

    def tell(task: Task, context: TaskContext) -> str:
        told.append(context)
        if context.attempt_number == 1:
            raise ValueError("no network")
        return "told"

    handles("summarise", tell)
    handles("fetch", lambda task, context: {"pages": 7})
    await run_attempt(nexus, claimed(nexus, task_id="fetched", task_type="fetch"))
    claim = claimed(nexus, depends_on=["fetched"], requires_review=True, idempotency_key="once")
    await run_attempt(nexus, claim)
    await run_attempt(nexus, nexus.claim_task("EP07-T3", "Agent-2"))
    nexus.reject("EP07-T3", "Reviewer", "too short")
    await run_attempt(nexus, nexus.claim_task("EP07-T3", "Agent-3"))

    assert [one.attempt_number for one in told] == [1, 2, 3]
    assert [one.agent_id for one in told] == ["Agent-1", "Agent-2", "Agent-3"]
    assert {one.idempotency_key for one in told} == {"once"}
    assert [dict(one.dependency_results) for one in told] == [{"fetched": {"pages": 7}}] * 3
    assert [one.previous_error for one in told] == [None, "ValueError: no network", None]
    assert [one.review_note for one in told] == [None, None, "too short"]


async def test_a_failed_attempt_is_offered_again_until_the_budget_is_spent(nexus: TaskNexus, handles: Handles) -> None:
    async def fail(task: Task, context: TaskContext) -> None:
        raise ValueError(f"try {context.attempt_number}")

    handles("summarise", fail)
    claim = claimed(nexus)
    for number, status in enumerate([PENDING, PENDING, FAILED], start=1):
        done = await run_attempt(nexus, claim)
        assert (done.outcome, done.number) == (AttemptOutcome.FAILED, number)
        assert done.status is not None
        assert done.status == status
        assert isinstance(done.error, ValueError)
        if status == PENDING:
            claim = nexus.claim_task("EP07-T3", "Agent-1")

    assert [one.error for one in nexus.attempts("EP07-T3")] == [f"ValueError: try {n}" for n in (1, 2, 3)]


async def test_a_handler_may_say_when_to_try_again(make_nexus: MakeNexus, handles: Handles) -> None:
    def busy(task: Task, context: TaskContext) -> None:
        raise Retry("busy", after_seconds=1000)

    nexus = make_nexus(retry=RetryPolicy(backoff_seconds=10, jitter=0))
    handles("summarise", busy)
    before = nexus.now()

    done = await run_attempt(nexus, claimed(nexus))

    assert done.status is not None
    assert done.status == PENDING
    assert timedelta(seconds=999) < done.available_at - before < timedelta(seconds=1030)


async def test_a_handler_may_give_up(nexus: TaskNexus, handles: Handles) -> None:
    def hopeless(task: Task, context: TaskContext) -> None:
        raise GiveUp("the page is gone")

    handles("summarise", hopeless)

    done = await run_attempt(nexus, claimed(nexus))

    assert done.status is not None
    assert (done.status, task_of(nexus).error) == (FAILED, "GiveUp: the page is gone")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class FarAway(Exception):
    retry_after_seconds = -1.0


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("asynchronous", [True, False], ids=["async def", "def"])
@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda: sys.exit(3), "sys.exit(3)"),
        (lambda: next(iter(())), "StopIteration"),
        (lambda: {1, 2}, "JSON"),
        (lambda: float("nan"), "JSON"),
        (lambda: "x" * 2000, "the limit is 1,024"),
        (lambda: nested(100_000), ""),
        (lambda: (_ for _ in ()).throw(asyncio.CancelledError), "ancelled"),
        (lambda: (_ for _ in ()).throw(Unspeakable), "Unspeakable"),
        (lambda: (_ for _ in ()).throw(FarAway("over the hills")), "FarAway: over the hills"),
        (lambda: (_ for _ in ()).throw(ClaimLost("another", 1, now_held="by me")), "ClaimLost"),
        (lambda: (_ for _ in ()).throw(DatabaseUnavailable("the handler's own")), "DatabaseUnavailable"),
    ],
)
async def test_whatever_goes_wrong_in_a_handler_is_a_failed_attempt(
    make_nexus: MakeNexus, handles: Handles, asynchronous: bool, act: Callable[[], Any], error: str
) -> None:
    def do(task: Task, context: TaskContext) -> Any:
        return act()

    async def do_async(task: Task, context: TaskContext) -> Any:
        return act()

    nexus = make_nexus(max_payload_bytes=1024)
    handles("summarise", do_async if asynchronous else do)

    async with asyncio.timeout(20):
        done = await run_attempt(nexus, claimed(nexus, retry_policy=ONCE))

    assert done.outcome == AttemptOutcome.FAILED
    assert task_of(nexus).status == FAILED
    assert error in str(last_attempt(nexus).error)


# -- notes ----------------------------------------------------------------------------------------------------


async def test_a_note_reaches_the_attempt_while_it_runs(nexus: TaskNexus, handles: Handles, signals: Signals) -> None:
    def read(task: Task, context: TaskContext) -> None:
        context.note("page 1")
        context.note("page 2")
        signals.go.wait(20)

    handles("summarise", read)
    running = asyncio.create_task(run_attempt(nexus, claimed(nexus, lease_seconds=0.3), lease_seconds=0.3))
    await until(lambda: any(attempt.note for attempt in nexus.attempts("EP07-T3")))

    assert last_attempt(nexus).note == "page 2"
    assert last_attempt(nexus).outcome == AttemptOutcome.RUNNING
    signals.go.set()
    await running


@pytest.mark.parametrize("fails", [False, True])
async def test_the_last_note_of_a_short_attempt_is_kept(nexus: TaskNexus, handles: Handles, fails: bool) -> None:
    async def read(task: Task, context: TaskContext) -> None:
        context.note("page 7 of 7")
        if fails:
            raise ValueError("the last line cannot be read")

    handles("summarise", read)

    await run_attempt(nexus, claimed(nexus))

    assert last_attempt(nexus).note == "page 7 of 7"


# -- too long -------------------------------------------------------------------------------------------------


async def sleeps(task: Task, context: TaskContext) -> None:
    await asyncio.sleep(60)


def watches(task: Task, context: TaskContext) -> None:
    assert context.stop.wait(60)


async def goes_on_when_cancelled(task: Task, context: TaskContext) -> None:
    for _ in range(30):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.1)


def ignores(task: Task, context: TaskContext) -> None:
    time.sleep(5)


@pytest.mark.parametrize("handler", [sleeps, watches, goes_on_when_cancelled, ignores])
async def test_an_attempt_that_takes_too_long_has_failed(nexus: TaskNexus, handles: Handles, handler: Any) -> None:
    handles("summarise", handler)
    claim = claimed(nexus, timeout_seconds=0.1)
    began = time.monotonic()

    done = await run_attempt(nexus, claim, grace_seconds=0.3)

    assert time.monotonic() - began < 2.5
    assert done.outcome == AttemptOutcome.TIMED_OUT
    assert isinstance(done.error, TimeoutError)
    assert last_attempt(nexus).outcome == AttemptOutcome.TIMED_OUT
    assert last_attempt(nexus).error == "TimeoutError: took longer than 0.1 s"
    assert task_of(nexus).status == PENDING, "it may be tried again"


async def test_handlers_that_never_stop_hold_up_nobody_else(
    nexus: TaskNexus, handles: Handles, signals: Signals
) -> None:
    """More of them than the event loop's own pool has threads: the nexus's calls go on, the next handler begins."""

    def hangs(task: Task, context: TaskContext) -> None:
        signals.go.wait(60)

    handles("hang", hangs)
    handles("summarise", summarise_in_a_thread)
    hanging = [claimed(nexus, task_id=f"hang-{n}", task_type="hang", timeout_seconds=0.05) for n in range(40)]

    async with asyncio.timeout(30):
        ended = await asyncio.gather(*(run_attempt(nexus, claim, grace_seconds=0.05) for claim in hanging))
        assert {one.outcome for one in ended} == {AttemptOutcome.TIMED_OUT}
        done = await run_attempt(nexus, claimed(nexus, timeout_seconds=10))

    assert done.outcome == AttemptOutcome.COMPLETED


def test_a_handler_that_never_stops_does_not_keep_its_process(tmp_path: Path) -> None:
    code = """
import asyncio, sys, threading
from flows.handlers.registry import registered
from flows.runner import run_attempt
from nexus import NewTask, TaskNexus

async def main():
    nexus = TaskNexus("sqlite:///board.db")
    nexus.add_task(NewTask(task_id="T", task_type="hang", timeout_seconds=0.1))
    done = await run_attempt(nexus, nexus.claim_task("T", "A"), grace_seconds=0.1)
    print(done.outcome)

with registered("hang", lambda task, context: threading.Event().wait()):
    asyncio.run(main())
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "timed_out"), ended.stderr


# -- leases ---------------------------------------------------------------------------------------------------


async def test_an_async_handler_that_blocks_keeps_its_lease(nexus: TaskNexus, handles: Handles) -> None:
    swept: list[int] = []

    async def blocks(task: Task, context: TaskContext) -> str:
        time.sleep(1.2)  # noqa: ASYNC251 - that is the point
        swept.append(nexus.sweep().expired)
        return "done"

    handles("summarise", blocks)

    done = await run_attempt(nexus, claimed(nexus, lease_seconds=0.5), lease_seconds=0.5)

    assert swept == [0]
    assert done.outcome == AttemptOutcome.COMPLETED


@pytest.mark.parametrize("handler", [sleeps, watches])
async def test_a_cancelled_task_stops_its_work(nexus: TaskNexus, handles: Handles, handler: Any) -> None:
    begun = threading.Event()

    async def begins(task: Task, context: TaskContext) -> None:
        begun.set()
        await handler(task, context)

    def begins_in_thread(task: Task, context: TaskContext) -> None:
        begun.set()
        handler(task, context)

    handles("summarise", begins if handler is sleeps else begins_in_thread)
    running = asyncio.create_task(run_attempt(nexus, claimed(nexus, lease_seconds=0.3), lease_seconds=0.3))
    assert await asyncio.to_thread(begun.wait, 20)
    nexus.cancel("EP07-T3", "not needed any more")

    async with asyncio.timeout(10):
        done = await running

    assert done.outcome == AttemptOutcome.CANCELLED
    assert done.status is not None
    assert done.status == TaskStatus.CANCELLED
    assert last_attempt(nexus).outcome == AttemptOutcome.CANCELLED


@pytest.mark.parametrize("noticed", [True, False], ids=["told by a heartbeat", "done before the next heartbeat"])
async def test_what_a_cancelled_task_returns_is_kept_all_the_same(
    nexus: TaskNexus, handles: Handles, signals: Signals, noticed: bool
) -> None:
    def spends_money(task: Task, context: TaskContext) -> str:
        signals.begun.set()
        (context.stop if noticed else signals.go).wait(20)
        return "worth ten dollars"

    handles("summarise", spends_money)
    lease = 0.3 if noticed else 60
    running = asyncio.create_task(run_attempt(nexus, claimed(nexus, lease_seconds=lease), lease_seconds=lease))
    await signals.until_begun()
    nexus.cancel("EP07-T3", "not needed any more")
    signals.go.set()

    done = await running

    assert done.outcome == AttemptOutcome.CANCELLED
    assert last_attempt(nexus).late_result == "worth ten dollars"
    assert task_of(nexus).status == TaskStatus.CANCELLED
    assert task_of(nexus).result is None


class Frozen(TaskNexus):
    """A host that stands still: its heartbeats come late."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.thawed = threading.Event()

    def heartbeat_many(self, beats: Any) -> Any:
        assert self.thawed.wait(20)
        return super().heartbeat_many(beats)


class CutOff(TaskNexus):
    """A host whose heartbeats reach nobody."""

    why: Exception = DatabaseUnavailable("no route to the database")

    def heartbeat_many(self, beats: Any) -> Any:
        raise self.why


@pytest.mark.parametrize("noticed", [True, False], ids=["stopped", "done before it was noticed"])
async def test_a_late_result_is_kept_and_the_newer_attempt_untouched(
    make_nexus: MakeNexus, handles: Handles, signals: Signals, noticed: bool
) -> None:
    def spends_money(task: Task, context: TaskContext) -> str:
        signals.begun.set()
        (context.stop if noticed else signals.go).wait(20)
        return f"by {context.agent_id}"

    nexus = make_nexus(Frozen)
    handles("summarise", spends_money)
    claim = claimed(nexus, lease_seconds=0.2)
    slow = asyncio.create_task(run_attempt(nexus, claim, lease_seconds=0.2 if noticed else 60))
    await signals.until_begun()
    await until(lambda: nexus.sweep().expired)
    newer = nexus.claim_task("EP07-T3", "Agent-2")
    nexus.start(newer)
    (nexus.thawed if noticed else signals.go).set()

    done = await slow

    assert (done.outcome, done.status) == (AttemptOutcome.LOST, None)
    first, second = nexus.attempts("EP07-T3")
    assert (first.outcome, first.late_result) == (AttemptOutcome.LOST, "by Agent-1")
    assert (second.outcome, second.late_result) == (AttemptOutcome.RUNNING, None)
    assert nexus.complete(newer, "by Agent-2").result == "by Agent-2"


async def test_work_stops_when_its_lease_could_not_be_renewed(make_nexus: MakeNexus, handles: Handles) -> None:
    nexus = make_nexus(CutOff)
    handles("summarise", sleeps)

    async with asyncio.timeout(10):
        done = await run_attempt(nexus, claimed(nexus, lease_seconds=0.3), lease_seconds=0.3)

    assert (done.outcome, done.status) == (AttemptOutcome.LOST, None)
    assert task_of(nexus).status == PENDING, "only the heartbeats were cut off: no need to wait for a sweep"
    assert nexus.history("EP07-T3")[-1].actor == "Agent-1"


@pytest.mark.parametrize("why", [DatabaseUnavailable("no route to the database"), RuntimeError("a bug")])
async def test_a_task_whose_lease_can_never_be_renewed_still_ends(
    make_nexus: MakeNexus, handles: Handles, why: Exception
) -> None:
    nexus = make_nexus(CutOff)
    nexus.why = why
    handles("summarise", sleeps)
    nexus.add_task({"task_id": "EP07-T3", "task_type": "summarise", "retry_policy": {"max_losses": 2}})

    async with asyncio.timeout(20):
        for _ in range(2):
            claim = nexus.claim_task("EP07-T3", "Agent-1", lease_seconds=0.3)
            await run_attempt(nexus, claim, lease_seconds=0.3)

    assert task_of(nexus).status == FAILED
    assert (task_of(nexus).failure_count, task_of(nexus).loss_count) == (0, 2)


async def test_a_task_for_which_nothing_can_be_read_still_ends(nexus: TaskNexus, handles: Handles) -> None:
    """Somebody has spoilt the result that its handler was to be given."""
    handles("summarise", summarise)
    nexus.add_task({"task_id": "spoilt"})
    nexus.complete(nexus.claim("Agent-1", start=True)[0], "read me")
    spoil = "UPDATE nexus_tasks SET result = '{' WHERE task_id = 'spoilt'"
    nexus._database.write(lambda tx: tx.connection.exec_driver_sql(spoil))
    nexus.add_task(
        {
            "task_id": "EP07-T3",
            "task_type": "summarise",
            "depends_on": ["spoilt"],
            "retry_policy": {"max_attempts": 2, "backoff_seconds": 0},
        }
    )

    outcomes = [(await run_attempt(nexus, nexus.claim_task("EP07-T3", "Agent-1"))).outcome for _ in range(2)]

    assert outcomes == [AttemptOutcome.FAILED] * 2
    assert (task_of(nexus).status, task_of(nexus).failure_count) == (FAILED, 2)


async def test_progress_told_as_a_number_harms_no_work(nexus: TaskNexus, handles: Handles) -> None:
    async def counts(task: Task, context: TaskContext) -> str:
        for percent in range(0, 100, 10):
            context.note(percent)
            await asyncio.sleep(0.06)
        return "done"

    handles("summarise", counts)

    done = await run_attempt(nexus, claimed(nexus, lease_seconds=0.3), lease_seconds=0.3)

    assert done.outcome == AttemptOutcome.COMPLETED
    assert last_attempt(nexus).note == "90"


async def test_a_blocked_task_is_taken_from_its_worker(nexus: TaskNexus, handles: Handles, signals: Signals) -> None:
    async def works(task: Task, context: TaskContext) -> None:
        signals.begun.set()
        await asyncio.sleep(60)

    handles("summarise", works)
    running = asyncio.create_task(run_attempt(nexus, claimed(nexus, lease_seconds=0.3), lease_seconds=0.3))
    await signals.until_begun()
    nexus.block("EP07-T3", "ask the customer first")

    async with asyncio.timeout(10):
        done = await running

    assert done.outcome in (AttemptOutcome.LOST, AttemptOutcome.RELEASED)
    assert task_of(nexus).status == TaskStatus.BLOCKED


# -- stopping -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handler", [sleeps, watches, ignores])
async def test_an_agent_that_stops_hands_its_task_back(
    nexus: TaskNexus, handles: Handles, signals: Signals, handler: Any
) -> None:
    def begins(task: Task, context: TaskContext) -> Any:
        signals.begun.set()
        return handler(task, context)

    handles("summarise", begins)
    running = asyncio.create_task(run_attempt(nexus, claimed(nexus), grace_seconds=0.3))
    await signals.until_begun()

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert task_of(nexus).status == PENDING
    assert task_of(nexus).failure_count == 0
    assert last_attempt(nexus).outcome == AttemptOutcome.RELEASED
    assert nexus.claim_task("EP07-T3", "Agent-2").claim_no == 2


async def test_a_handler_that_stops_early_has_not_completed_its_task(
    nexus: TaskNexus, handles: Handles, signals: Signals
) -> None:
    def half(task: Task, context: TaskContext) -> str:
        signals.begun.set()
        context.stop.wait(20)
        return "half of it"

    handles("summarise", half)
    running = asyncio.create_task(run_attempt(nexus, claimed(nexus)))
    await signals.until_begun()

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert task_of(nexus).status == PENDING
    assert last_attempt(nexus).outcome == AttemptOutcome.RELEASED
    assert last_attempt(nexus).late_result == "half of it"


class Slow(TaskNexus):
    """A database that takes its time over one verb: the test cancels while it is at it."""

    verb = ""

    def arm(self, verb: str) -> threading.Event:
        self.verb, self.reached, self.go = verb, threading.Event(), threading.Event()
        return self.reached

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name != "verb" and name == self.verb:

            def slowly(*rest: Any, **named: Any) -> Any:
                done = found(*rest, **named)
                self.reached.set()
                assert self.go.wait(20)
                return done

            return slowly
        return found


@pytest.mark.parametrize("verb", ["start", "results"])
async def test_a_stop_before_the_handler_begins_hands_back_too(
    make_nexus: MakeNexus, handles: Handles, verb: str
) -> None:
    nexus = make_nexus(Slow)
    handles("summarise", summarise)
    await run_attempt(nexus, claimed(nexus, task_id="fetched"))
    claim = claimed(nexus, depends_on=["fetched"])
    reached = nexus.arm(verb)
    running = asyncio.create_task(run_attempt(nexus, claim))
    assert await asyncio.to_thread(reached.wait, 20)

    running.cancel()
    nexus.go.set()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert task_of(nexus).status == PENDING
    assert last_attempt(nexus).outcome == AttemptOutcome.RELEASED


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize(("verb", "fails"), [("complete", False), ("fail", True)])
async def test_a_stop_while_it_closes_lets_it_close(
    make_nexus: MakeNexus, handles: Handles, verb: str, fails: bool, times: int
) -> None:
    async def work(task: Task, context: TaskContext) -> str:
        if fails:
            raise ValueError("no")
        return "done"

    nexus = make_nexus(Slow)
    handles("summarise", work)
    claim = claimed(nexus, retry_policy=ONCE)
    reached = nexus.arm(verb)
    running = asyncio.create_task(run_attempt(nexus, claim))
    assert await asyncio.to_thread(reached.wait, 20)

    for _ in range(times):
        running.cancel()
        await asyncio.sleep(0)
    assert not running.done()
    nexus.go.set()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert task_of(nexus).status == (FAILED if fails else TaskStatus.COMPLETED)


async def test_being_told_twice_to_stop_does_not_lose_the_task(
    nexus: TaskNexus, handles: Handles, signals: Signals
) -> None:
    tidied: list[bool] = []

    async def tidies_up(task: Task, context: TaskContext) -> None:
        try:
            signals.begun.set()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.2)
            tidied.append(True)

    handles("summarise", tidies_up)
    running = asyncio.create_task(run_attempt(nexus, claimed(nexus)))
    await signals.until_begun()

    for _ in range(3):
        running.cancel()
        await asyncio.sleep(0.02)

    with pytest.raises(asyncio.CancelledError):
        await running
    assert tidied == [True], "one stop, one chance to tidy up"
    assert task_of(nexus).status == PENDING
    assert last_attempt(nexus).outcome == AttemptOutcome.RELEASED


async def test_the_lease_holds_while_the_work_winds_down(nexus: TaskNexus, handles: Handles, signals: Signals) -> None:
    swept: list[int] = []

    def winds_down(task: Task, context: TaskContext) -> None:
        signals.begun.set()
        context.stop.wait(20)
        time.sleep(1)
        swept.append(nexus.sweep().expired)

    handles("summarise", winds_down)
    running = asyncio.create_task(run_attempt(nexus, claimed(nexus, lease_seconds=0.4), lease_seconds=0.4))
    await signals.until_begun()

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert swept == [0]
    assert last_attempt(nexus).outcome == AttemptOutcome.RELEASED


class Terminated(BaseException):
    """As Prefect's handler for SIGTERM raises it, wherever the main thread happens to be."""


async def test_a_signal_that_strikes_inside_a_handler_is_no_failure_of_it(nexus: TaskNexus, handles: Handles) -> None:
    async def struck(task: Task, context: TaskContext) -> None:
        raise Terminated

    handles("summarise", struck)

    with pytest.raises(Terminated):
        await run_attempt(nexus, claimed(nexus))

    assert task_of(nexus).status == PENDING
    assert task_of(nexus).failure_count == 0
    assert last_attempt(nexus).outcome == AttemptOutcome.RELEASED


def test_ctrl_c_inside_a_handler_is_no_failure_of_it(nexus: TaskNexus, handles: Handles) -> None:
    async def struck(task: Task, context: TaskContext) -> None:
        raise KeyboardInterrupt

    handles("summarise", struck)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(run_attempt(nexus, claimed(nexus)))

    assert task_of(nexus).status == PENDING
    assert last_attempt(nexus).outcome == AttemptOutcome.RELEASED


def test_the_end_of_the_event_loop_hands_back(nexus: TaskNexus, handles: Handles, signals: Signals) -> None:
    """Ctrl-C and SIGTERM break the loop off; what asyncio cancels then is every task at once."""

    async def works(task: Task, context: TaskContext) -> None:
        signals.begun.set()
        await asyncio.sleep(60)

    async def main() -> None:
        keep.append(asyncio.create_task(run_attempt(nexus, claim)))
        await signals.until_begun()

    keep: list[Any] = []
    handles("summarise", works)
    claim = claimed(nexus)

    asyncio.run(main())

    assert task_of(nexus).status == PENDING
    assert last_attempt(nexus).outcome == AttemptOutcome.RELEASED


# -- the database -----------------------------------------------------------------------------------------------


class Unreliable(TaskNexus):
    """A database that is away a few times, before or after it did what was asked."""

    away = 0
    after_writing = False

    def complete(self, *rest: Any, **named: Any) -> Task:
        return self._unreliably(super().complete, *rest, **named)

    def fail(self, *rest: Any, **named: Any) -> Task:
        return self._unreliably(super().fail, *rest, **named)

    def _unreliably(self, verb: Callable[..., Task], *rest: Any, **named: Any) -> Task:
        if self.away:
            self.away -= 1
            if self.after_writing:
                verb(*rest, **named)
            raise DatabaseUnavailable("the server is restarting.")
        return verb(*rest, **named)


@pytest.mark.parametrize("after_writing", [False, True], ids=["before it wrote", "after it wrote"])
@pytest.mark.parametrize("fails", [False, True])
async def test_what_was_done_is_insisted_on(
    make_nexus: MakeNexus, handles: Handles, after_writing: bool, fails: bool
) -> None:
    async def work(task: Task, context: TaskContext) -> str:
        if fails:
            raise ValueError("no")
        return "done"

    nexus = make_nexus(Unreliable)
    handles("summarise", work)
    nexus.away, nexus.after_writing = 1 if after_writing else 2, after_writing

    done = await run_attempt(nexus, claimed(nexus), lease_seconds=1.5)

    assert done.outcome == (AttemptOutcome.FAILED if fails else AttemptOutcome.COMPLETED)
    assert done.status is not None
    assert done.status == (PENDING if fails else TaskStatus.COMPLETED)
    assert len(nexus.attempts("EP07-T3")) == 1
    assert task_of(nexus).failure_count == int(fails)


async def test_insisting_ends_with_the_lease(make_nexus: MakeNexus, handles: Handles) -> None:
    nexus = make_nexus(Unreliable)
    handles("summarise", summarise)
    nexus.away = 1000

    with pytest.raises(DatabaseUnavailable):
        await run_attempt(nexus, claimed(nexus, lease_seconds=0.3), lease_seconds=0.3)


class AwayAtFirst(TaskNexus):
    """A database that opens the attempt and is away when the results of dependencies are read."""

    def results(self, *rest: Any) -> Any:
        raise DatabaseUnavailable("the server is restarting.")


async def test_an_attempt_that_cannot_begin_is_handed_back(make_nexus: MakeNexus, handles: Handles) -> None:
    nexus = make_nexus(AwayAtFirst)
    handles("summarise", summarise)
    await run_attempt(nexus, claimed(nexus, task_id="fetched"))

    with pytest.raises(DatabaseUnavailable):
        await run_attempt(nexus, claimed(nexus, depends_on=["fetched"]))

    assert task_of(nexus).status == PENDING


async def test_a_claim_that_was_lost_before_it_began_is_left_alone(nexus: TaskNexus, handles: Handles) -> None:
    begun: list[str] = []
    handles("summarise", lambda task, context: begun.append(task.task_id))
    claim = claimed(nexus, lease_seconds=0.01)
    await asyncio.sleep(0.02)
    nexus.sweep()
    newer = nexus.claim_task("EP07-T3", "Agent-2")

    with pytest.raises(ClaimLost):
        await run_attempt(nexus, claim)

    assert begun == []
    assert nexus.current_claim("EP07-T3").claim_no == newer.claim_no


async def test_a_type_that_nothing_here_does_is_handed_back(nexus: TaskNexus) -> None:
    with pytest.raises(NoHandler, match="engrave"):
        await run_attempt(nexus, claimed(nexus, task_type="engrave"))

    assert task_of(nexus).status == PENDING
    assert nexus.attempts("EP07-T3") == []


async def test_what_a_handler_logs_goes_where_the_caller_wants_it(nexus: TaskNexus, handles: Handles) -> None:
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    log = logging.Logger("of the run")
    log.addHandler(Lines())
    handles("summarise", lambda task, context: context.logger.info("reading %s", json.dumps(task.payload)))

    await run_attempt(nexus, claimed(nexus, payload={"page": 1}), log=log)

    assert lines == ['reading {"page": 1}']
