"""`process_agent_tasks`: one agent drains what it may claim, and holds nothing when it is stopped."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from flows import GiveUp, ShiftReport, TaskContext, process_agent_tasks
from flows.board import working_on
from nexus import AttemptOutcome, Claim, NewTask, RetryPolicy, Task, TaskNexus, TaskStatus
from nexus.errors import AgentNotConfirmed, DatabaseUnavailable

from .conftest import ONCE, Handles, MakeNexus, artifact_of, flow_run_of, task_runs_of, until

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture(autouse=True)
def at_work(nexus: TaskNexus, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("flows.shift.POLL_SECONDS", 0.1)
    with working_on(nexus):
        yield


def add(nexus: TaskNexus, *task_ids: str, **fields: Any) -> None:
    nexus.add_tasks([NewTask(**{"task_id": task_id, "task_type": "summarise", **fields}) for task_id in task_ids])


def statuses(nexus: TaskNexus) -> dict[str, str]:
    return {task.task_id: str(task.status) for task in nexus.get_all_tasks()}


async def sleep(task: Task, context: TaskContext) -> None:
    await asyncio.sleep(60)


async def test_a_shift_drains_the_board(nexus: TaskNexus, handles: Handles) -> None:
    handles("summarise", lambda task, context: task.task_id)
    add(nexus, *(f"T-{number}" for number in range(12)))

    report = await process_agent_tasks("Agent-2")

    assert isinstance(report, ShiftReport)
    assert (report.agent_id, report.completed, report.failed, report.dead_letters) == ("Agent-2", 12, 0, 0)
    assert sorted(one.task_id for one in report.attempts) == sorted(statuses(nexus))
    assert set(statuses(nexus).values()) == {"completed"}
    assert report.started_at <= report.finished_at


async def test_what_a_person_sees_of_it(nexus: TaskNexus, handles: Handles) -> None:
    async def do(task: Task, context: TaskContext) -> None:
        if task.task_id == "T-2":
            raise GiveUp("the page is gone")

    handles("summarise", do)
    add(nexus, "T-1", "T-2")

    state = await process_agent_tasks("Agent-2", return_state=True)

    run = await flow_run_of(state)
    assert run.name == "Agent-2 · shift"
    assert {"nexus", "agent:Agent-2", "type:summarise"} <= set(run.tags)
    assert run.state.is_completed()
    assert run.state.message == "1 completed, 1 failed, 1 dead letters"
    seen = await task_runs_of(state, 2)
    assert {name: one.state.name for name, one in seen.items()} == {
        "T-1 · attempt 1 · Agent-2": "Completed",
        "T-2 · attempt 1 · Agent-2": "Failed",
    }
    failed = seen["T-2 · attempt 1 · Agent-2"]
    assert "the page is gone" in failed.state.message
    assert set(failed.tags) == {"nexus", "agent:Agent-2", "type:summarise"}
    [attempt] = nexus.attempts("T-2")
    assert attempt.run_ref == {"flow_run_id": str(run.id), "task_run_id": str(failed.id), "run_count": 1}
    assert (await artifact_of(state, "nexus-progress-agent-2")).data == 100
    report = await artifact_of(state, "nexus-shift-agent-2")
    assert "GiveUp" not in report.data
    assert "the page is gone" in report.data
    rows = [line for line in report.data.splitlines() if line.startswith("| T-")]
    assert [row.split(" | ")[:4] for row in rows] == [
        ["| T-2", "1", "failed", "dead letter"],
        ["| T-1", "1", "completed", "completed"],
    ], "what went wrong comes first"


async def test_no_more_at_once_than_asked_for(nexus: TaskNexus, handles: Handles) -> None:
    together = threading.Semaphore(0)
    present, most = 0, 0
    counting = threading.Lock()

    def count(task: Task, context: TaskContext) -> None:
        nonlocal present, most
        with counting:
            present += 1
            most = max(most, present)
            if present == 3:
                together.release(9)
        assert together.acquire(timeout=20), "three could have been at work side by side"
        with counting:
            present -= 1

    handles("summarise", count)
    add(nexus, *(f"T-{number}" for number in range(9)))

    report = await process_agent_tasks("Agent-2", concurrency=3)

    assert (report.completed, most) == (9, 3)


async def test_a_failed_task_is_offered_again(nexus: TaskNexus, handles: Handles) -> None:
    async def flaky(task: Task, context: TaskContext) -> None:
        if context.attempt_number < 3:
            raise ValueError("no network")

    handles("summarise", flaky)
    add(nexus, "T-1")

    state = await process_agent_tasks("Agent-2", return_state=True)

    report: ShiftReport = await state.aresult()
    assert [(one.number, one.outcome, one.status) for one in report.attempts] == [
        (1, AttemptOutcome.FAILED, TaskStatus.PENDING),
        (2, AttemptOutcome.FAILED, TaskStatus.PENDING),
        (3, AttemptOutcome.COMPLETED, TaskStatus.COMPLETED),
    ]
    assert (report.completed, report.failed, report.dead_letters) == (1, 2, 0)
    assert report.attempts[0].error == "no network"
    assert set(await task_runs_of(state, 3)) == {f"T-1 · attempt {number} · Agent-2" for number in (1, 2, 3)}


async def test_the_state_of_a_run_says_what_became_of_its_attempt(nexus: TaskNexus, handles: Handles) -> None:
    def takes_away(task_id: str) -> None:
        nexus.run_ended(nexus.attempts(task_id)[-1], "its host is gone", crashed=True)

    async def do(task: Task, context: TaskContext) -> str | None:
        match task.task_id, context.attempt_number:
            case "fails" | "again", 1:
                raise ValueError(f"no network for {task.task_id}")
            case "cancelled", _:
                await asyncio.to_thread(nexus.cancel, task.task_id, "not needed")
            case "blocked", _:
                await asyncio.to_thread(nexus.block, task.task_id, "a question")
            case "lost", 1:
                await asyncio.to_thread(takes_away, task.task_id)
        return "done"

    handles("summarise", do)
    add(nexus, "again", "cancelled", "blocked", "lost")
    nexus.add_task(NewTask(task_id="fails", task_type="summarise", retry_policy=ONCE))
    nexus.add_task(NewTask(task_id="reviewed", task_type="summarise", requires_review=True))

    state = await process_agent_tasks("Agent-2", concurrency=1, return_state=True)

    seen = {name.removesuffix(" · Agent-2"): run.state for name, run in (await task_runs_of(state, 8)).items()}
    assert {name: (one.type, one.name) for name, one in seen.items()} == {
        "again · attempt 1": ("FAILED", "AwaitingRetry"),
        "again · attempt 2": ("COMPLETED", "Completed"),
        "cancelled · attempt 1": ("CANCELLED", "Cancelled"),
        "blocked · attempt 1": ("CANCELLED", "Cancelled"),
        "lost · attempt 1": ("CRASHED", "Crashed"),
        "lost · attempt 2": ("COMPLETED", "Completed"),
        "fails · attempt 1": ("FAILED", "Failed"),
        "reviewed · attempt 1": ("COMPLETED", "Completed"),
    }
    assert seen["again · attempt 1"].message.startswith("no network for again; offered again at ")
    assert "no network for fails" in seen["fails · attempt 1"].message
    assert seen["lost · attempt 1"].message.startswith("attempt 1 at lost was lost")
    assert seen["blocked · attempt 1"].message == "attempt 1 at blocked was handed back"
    assert seen["reviewed · attempt 1"].message == "waits for a reviewer"


async def test_draining_does_not_wait_for_a_backoff(nexus: TaskNexus, handles: Handles) -> None:
    async def fail(task: Task, context: TaskContext) -> None:
        raise ValueError("no network")

    handles("summarise", fail)
    add(nexus, "T-1", retry_policy=RetryPolicy(backoff_seconds=600))

    report = await process_agent_tasks("Agent-2")

    assert len(report.attempts) == 1
    assert statuses(nexus) == {"T-1": "pending"}


async def test_only_what_it_has_handlers_for_is_claimed(nexus: TaskNexus, handles: Handles) -> None:
    handles("summarise", lambda task, context: None)
    add(nexus, "T-1")
    add(nexus, "T-2", task_type="engrave")
    add(nexus, "T-3", task_type="command", payload={"argv": ["ls"]})

    report = await process_agent_tasks("Agent-2")

    assert [one.task_id for one in report.attempts] == ["T-1"]
    assert statuses(nexus) == {"T-1": "completed", "T-2": "pending", "T-3": "pending"}
    assert nexus.get_task_by_id("T-2").claim_no == 0  # type: ignore[union-attr]


async def test_a_filter_by_type_or_episode(nexus: TaskNexus, handles: Handles) -> None:
    handles("summarise", lambda task, context: None)
    handles("fetch", lambda task, context: None)
    add(nexus, "T-1")
    add(nexus, "T-2", task_type="fetch")
    add(nexus, "T-3", task_type="fetch", episode_id="EP07")

    assert (await process_agent_tasks("Agent-2", task_type="engrave")).attempts == ()
    assert [one.task_id for one in (await process_agent_tasks("Agent-2", episode_id="EP07")).attempts] == ["T-3"]
    assert [one.task_id for one in (await process_agent_tasks("Agent-2", task_type="fetch")).attempts] == ["T-2"]
    assert statuses(nexus) == {"T-1": "pending", "T-2": "completed", "T-3": "completed"}


@pytest.mark.parametrize("mode", ["drain", "wait"])
async def test_it_ends_after_as_many_attempts_as_asked_for(nexus: TaskNexus, handles: Handles, mode: Any) -> None:
    handles("summarise", lambda task, context: None)
    add(nexus, *(f"T-{number}" for number in range(5)))

    report = await process_agent_tasks("Agent-2", max_tasks=3, concurrency=2, mode=mode)

    assert report.completed == 3
    assert nexus.stats() == {"completed": 3, "pending": 2}


async def test_nothing_to_do(nexus: TaskNexus) -> None:
    state = await process_agent_tasks("Agent-2", return_state=True)

    assert (await state.aresult()).attempts == ()
    assert state.message == "nothing to do"


async def test_an_agent_that_nobody_registered(make_nexus: MakeNexus, handles: Handles) -> None:
    handles("summarise", lambda task, context: None)
    closed = make_nexus(registration="closed")
    add(closed, "T-1")

    with working_on(closed), pytest.raises(AgentNotConfirmed, match="Agent-2"):
        await process_agent_tasks("Agent-2")

    assert statuses(closed) == {"T-1": "pending"}
    assert closed.agents() == []


async def test_an_agents_own_limit_outweighs_the_shifts(nexus: TaskNexus, handles: Handles) -> None:
    held: list[int] = []

    def count(task: Task, context: TaskContext) -> None:
        held.append(nexus.stats()["in_progress"] + nexus.stats()["claimed"])

    handles("summarise", count)
    nexus.register_agent("Agent-2", max_concurrency=1)
    add(nexus, "T-1", "T-2", "T-3")

    assert (await process_agent_tasks("Agent-2", concurrency=3)).completed == 3
    assert held == [1, 1, 1]


# -- waiting ----------------------------------------------------------------------------------------------------


async def test_waiting_for_an_episode_ends_when_nothing_can_move(nexus: TaskNexus, handles: Handles) -> None:
    async def flaky(task: Task, context: TaskContext) -> None:
        if context.attempt_number == 1:
            raise ValueError("no network")

    handles("summarise", flaky)
    add(nexus, "T-1", episode_id="EP07", retry_policy=RetryPolicy(backoff_seconds=0.5, jitter=0))
    add(nexus, "T-2", episode_id="EP07", depends_on=["T-1"], retry_policy=ONCE)
    add(nexus, "T-3", episode_id="EP07", depends_on=["T-2"])
    add(nexus, "T-4", episode_id="EP07", task_type="engrave")
    add(nexus, "T-5", episode_id="EP07", assigned_to="Agent-9")

    async with asyncio.timeout(30):
        report = await process_agent_tasks("Agent-2", mode="wait", episode_id="EP07")

    assert statuses(nexus) == {
        "T-1": "completed",
        "T-2": "failed",
        "T-3": "pending",
        "T-4": "pending",
        "T-5": "pending",
    }
    assert (report.completed, report.failed, report.dead_letters) == (1, 2, 1)


async def test_waiting_takes_what_comes(nexus: TaskNexus, handles: Handles) -> None:
    handles("summarise", lambda task, context: None)
    shift = asyncio.create_task(process_agent_tasks("Agent-2", mode="wait"))
    await until(nexus.agents)
    add(nexus, "T-1")

    await until(lambda: statuses(nexus) == {"T-1": "completed"})

    assert not shift.done()
    shift.cancel()
    with pytest.raises(asyncio.CancelledError):
        await shift


# -- stopping ---------------------------------------------------------------------------------------------------


async def test_a_shift_that_is_stopped_hands_everything_back(nexus: TaskNexus, handles: Handles) -> None:
    stopped: list[str] = []

    def watch(task: Task, context: TaskContext) -> None:
        if context.stop.wait(60):
            stopped.append(task.task_id)

    handles("sleep", sleep)
    handles("watch", watch)
    add(nexus, "T-1", "T-2", task_type="sleep")
    add(nexus, "T-3", "T-4", task_type="watch")
    add(nexus, "T-5", task_type="watch", priority="low")
    shift = asyncio.create_task(process_agent_tasks("Agent-2", concurrency=4))
    await until(lambda: nexus.stats()["in_progress"] == 4)

    shift.cancel()

    with pytest.raises(asyncio.CancelledError):
        await shift
    assert set(statuses(nexus).values()) == {"pending"}
    assert sorted(stopped) == ["T-3", "T-4"]
    outcomes = [nexus.attempts(task_id)[0].outcome for task_id in ("T-1", "T-2", "T-3", "T-4")]
    assert outcomes == [AttemptOutcome.RELEASED] * 4
    assert nexus.attempts("T-5") == []


async def test_a_stop_is_no_crash_in_prefect(nexus: TaskNexus, handles: Handles) -> None:
    """What is Crashed is lost, and somebody looks into it; what was handed back is just offered again."""
    handles("summarise", sleep)
    add(nexus, "T-1", "T-2")
    shift = asyncio.create_task(process_agent_tasks("Agent-2", return_state=True))
    await until(lambda: nexus.stats()["in_progress"] == 2)

    shift.cancel()

    state = await shift
    run = await flow_run_of(state)
    assert (run.state.type, run.state.name) == ("CANCELLED", "Cancelled")
    assert run.state.message.startswith("stopped: it was told to stop")
    attempts = await task_runs_of(state, 2)
    assert {one.state.name for one in attempts.values()} == {"Cancelled"}
    assert {one.state.message for one in attempts.values()} == {"handed back: its agent stopped"}


async def test_an_attempt_that_could_not_be_handed_back_is_crashed(make_nexus: MakeNexus, handles: Handles) -> None:
    class Keeps(TaskNexus):
        def release(self, *given: Any, **named: Any) -> Task:
            raise DatabaseUnavailable("is away")

    handles("summarise", sleep)
    keeps = make_nexus(Keeps)
    add(keeps, "T-1")
    with working_on(keeps):
        shift = asyncio.create_task(process_agent_tasks("Agent-2", return_state=True))
        await until(lambda: keeps.stats()["in_progress"] == 1)
        shift.cancel()
        state = await shift

    (attempt,) = (await task_runs_of(state, 1)).values()
    assert attempt.state.name == "Crashed"


class Stopping(TaskNexus):
    """Whoever claims is stopped while the claim is on its way."""

    shift: "asyncio.Task[Any]"

    def claim(self, *given: Any, **named: Any) -> list[Claim]:
        claims = super().claim(*given, **named)
        self.shift.get_loop().call_soon_threadsafe(self.shift.cancel)
        time.sleep(0.2)
        return claims


async def test_claims_that_were_taken_but_not_begun_are_handed_back(make_nexus: MakeNexus, handles: Handles) -> None:
    handles("summarise", sleep)
    stopping = make_nexus(Stopping)
    add(stopping, "T-1", "T-2", "T-3")

    with working_on(stopping):
        stopping.shift = asyncio.create_task(process_agent_tasks("Agent-2"))
        with pytest.raises(asyncio.CancelledError):
            await stopping.shift

    assert set(statuses(stopping).values()) == {"pending"}
    assert {task.claim_no for task in stopping.get_all_tasks()} == {1}
    assert stopping.attempts("T-1") == []


async def test_being_stopped_twice_hands_back_too(nexus: TaskNexus, handles: Handles) -> None:
    async def tidies_up(task: Task, context: TaskContext) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.3)

    handles("summarise", tidies_up)
    add(nexus, "T-1", "T-2")
    shift = asyncio.create_task(process_agent_tasks("Agent-2"))
    await until(lambda: nexus.stats()["in_progress"] == 2)

    for _ in range(3):
        shift.cancel()
        await asyncio.sleep(0.05)

    with pytest.raises(asyncio.CancelledError):
        await shift
    assert set(statuses(nexus).values()) == {"pending"}


# -- faults -----------------------------------------------------------------------------------------------------


class Away(TaskNexus):
    """A database that is away for some claims."""

    away = 0

    def claim(self, *given: Any, **named: Any) -> list[Claim]:
        if self.away:
            self.away -= 1
            raise DatabaseUnavailable("the server is restarting.")
        return super().claim(*given, **named)


async def test_a_database_that_is_away_for_a_moment_is_not_an_empty_board(
    make_nexus: MakeNexus, handles: Handles
) -> None:
    handles("summarise", lambda task, context: None)
    away = make_nexus(Away)
    away.away = 2
    add(away, "T-1")

    with working_on(away):
        report = await process_agent_tasks("Agent-2")

    assert report.completed == 1


async def test_a_database_that_stays_away_ends_the_shift_in_red(make_nexus: MakeNexus) -> None:
    away = make_nexus(Away)
    away.away = 1000

    with working_on(away), pytest.raises(DatabaseUnavailable):
        await process_agent_tasks("Agent-2", lease_seconds=1)


async def test_a_task_that_was_cancelled_meanwhile(nexus: TaskNexus, handles: Handles) -> None:
    async def cancels(task: Task, context: TaskContext) -> str:
        await asyncio.to_thread(nexus.cancel, task.task_id, "not needed any more")
        return "done"

    handles("summarise", cancels)
    add(nexus, "T-1")

    report = await process_agent_tasks("Agent-2")

    assert [(one.outcome, one.status) for one in report.attempts] == [
        (AttemptOutcome.CANCELLED, TaskStatus.CANCELLED),
    ]
    assert report.summary() == "1 cancelled"


async def test_an_agent_that_cannot_renew_takes_nothing_more(nexus: TaskNexus, handles: Handles) -> None:
    """Its claim went to somebody else and its handler does not hear: until that ends, it claims no other task."""
    go_on = threading.Event()
    handles("deaf", lambda task, context: go_on.wait(60))
    handles("quick", lambda task, context: "done")
    nexus.add_task(NewTask(task_id="T-1", task_type="deaf"))

    with working_on(nexus):
        shift = asyncio.create_task(process_agent_tasks("Agent-1", concurrency=2, lease_seconds=1))
        try:
            await until(lambda: nexus.get_task_by_id("T-1").status == "in_progress")
            nexus.cancel("T-1")
            nexus.retry("T-1")
            nexus.claim_task("T-1", "Agent-2", lease_seconds=600)
            await asyncio.sleep(1.5)
            nexus.add_task(NewTask(task_id="T-2", task_type="quick"))
            await asyncio.sleep(2.5)
            assert nexus.get_task_by_id("T-2").claim_no == 0, "it looks for work every second, and takes none"
        finally:
            go_on.set()
        await shift
    assert nexus.get_task_by_id("T-2").status == "completed"


# -- many short tasks ---------------------------------------------------------------------------------------------


async def test_a_shift_that_shows_itself_only(nexus: TaskNexus, handles: Handles) -> None:
    """No task runs; every attempt is on the board, with the shift's run, and how far it is, is an artifact."""

    async def do(task: Task, context: TaskContext) -> Any:
        if task.task_id == "T-7":
            raise GiveUp("the page is gone")
        return {"did": task.task_id, "attempt": context.attempt_number}

    handles("summarise", do)
    add(nexus, *(f"T-{number}" for number in range(300)))

    state = await process_agent_tasks("Agent-2", observe="shift", return_state=True)

    run = await flow_run_of(state)
    report = await state.result()
    assert (report.completed, report.dead_letters) == (299, 1)
    assert await task_runs_of(state, 0) == {}
    attempts = nexus.attempts_by_task([f"T-{number}" for number in range(300)])
    assert {one.run_ref["flow_run_id"] for tried in attempts.values() for one in tried} == {str(run.id)}
    # On a busy machine some wait ahead for too long: those are handed back, and come again.
    assert [one.outcome for tried in attempts.values() for one in tried[:-1] if one.outcome != "released"] == []
    assert {tried[-1].outcome for tried in attempts.values()} == {"completed", "failed"}
    assert nexus.get_task_by_id("T-9").result == {"did": "T-9", "attempt": 1}
    assert (await artifact_of(state, "nexus-progress-agent-2")).data == 100
    assert "the page is gone" in (await artifact_of(state, "nexus-shift-agent-2")).data


async def test_a_shift_of_short_tasks_that_is_stopped_hands_everything_back(nexus: TaskNexus, handles: Handles) -> None:
    """What is done is written, what was claimed ahead is offered again at once."""
    stop = asyncio.Event()

    async def do(task: Task, context: TaskContext) -> str:
        if nexus.stats()["completed"] > 50:
            stop.set()
        await asyncio.sleep(0.002)
        return "done"

    handles("summarise", do)
    add(nexus, *(f"T-{number}" for number in range(2000)))
    shift = asyncio.create_task(process_agent_tasks("Agent-2", observe="shift"))
    async with asyncio.timeout(60):
        await stop.wait()
    shift.cancel()

    with pytest.raises(asyncio.CancelledError):
        await shift
    stats = nexus.stats()
    assert set(stats) == {"completed", "pending"}
    done = [one for tried in nexus.attempts_by_task(list(statuses(nexus))).values() for one in tried]
    assert {one.outcome for one in done} <= {AttemptOutcome.COMPLETED, AttemptOutcome.RELEASED}
    assert sum(one.outcome == AttemptOutcome.COMPLETED for one in done) == stats["completed"]


async def test_slow_work_is_not_claimed_ahead(nexus: TaskNexus, handles: Handles) -> None:
    """What waits for one agent's hand could be done by another that is idle."""
    handles("summarise", sleep)
    add(nexus, *(f"T-{number}" for number in range(9)))
    shift = asyncio.create_task(process_agent_tasks("Agent-2", concurrency=2, observe="shift"))
    await until(lambda: nexus.stats()["in_progress"] == 2)
    await asyncio.sleep(0.5)

    assert nexus.stats() == {"in_progress": 2, "pending": 7}
    shift.cancel()
    with pytest.raises(asyncio.CancelledError):
        await shift
