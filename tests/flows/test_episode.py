"""`run_episode`: a named batch, several agents, until nothing can move any more."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from flows import EpisodeReport, Retry, TaskContext, run_episode
from flows.board import working_on
from nexus import AttemptOutcome, NewTask, RetryPolicy, Task, TaskNexus, TaskStatus
from nexus.errors import AgentNotConfirmed, DatabaseUnavailable

from .conftest import ONCE, Handles, MakeNexus, artifact_of, flow_run_of, task_runs_of, until

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture(autouse=True)
def at_work(nexus: TaskNexus, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("flows.shift.POLL_SECONDS", 0.1)
    with working_on(nexus):
        yield


def add(nexus: TaskNexus, task_id: str, **fields: Any) -> None:
    nexus.add_task(NewTask(**{"task_id": task_id, "task_type": "summarise", "episode_id": "EP07", **fields}))


def statuses(nexus: TaskNexus) -> dict[str, str]:
    return {task.task_id: str(task.status) for task in nexus.get_all_tasks()}


async def test_an_episode_in_the_order_of_its_dependencies(nexus: TaskNexus, handles: Handles) -> None:
    order: list[str] = []

    async def join(task: Task, context: TaskContext) -> str:
        order.append(task.task_id)
        return "+".join([*sorted(context.dependency_results.values()), task.task_id])

    handles("summarise", join)
    add(nexus, "A")
    add(nexus, "B", depends_on=["A"])
    add(nexus, "C", depends_on=["A"])
    add(nexus, "D", depends_on=["B", "C"])
    add(nexus, "elsewhere", episode_id="EP08")

    state = await run_episode("EP07", agents=["Agent-1", "Agent-2"], return_state=True)

    report: EpisodeReport = await state.aresult()
    assert (order[0], set(order[1:3]), order[3]) == ("A", {"B", "C"}, "D")
    assert report.tasks[-1].result == "A+B+A+C+D"
    assert report.left == {}
    assert report.failed == []
    assert sorted(report.attempts) == ["A", "B", "C", "D"]
    assert statuses(nexus)["elsewhere"] == "pending"
    run = await flow_run_of(state)
    assert (run.name, run.state.message) == ("episode EP07", "4 completed")
    assert {"nexus", "episode:EP07"} <= set(run.tags)
    seen = await task_runs_of(state, 4)
    assert {name.split(" · ")[0] for name in seen} == {"A", "B", "C", "D"}
    assert {one.task_id for one in report.tasks} == {"A", "B", "C", "D"}
    assert (await artifact_of(state, "nexus-progress-ep07")).data == 100
    shown = (await artifact_of(state, "nexus-episode-ep07")).data
    assert "EP07" in shown
    assert all(f"| {task_id} | completed | 1 |" in shown for task_id in "ABCD")


async def test_a_dead_letter_leaves_its_dependants_with_the_reason(nexus: TaskNexus, handles: Handles) -> None:
    async def do(task: Task, context: TaskContext) -> None:
        if task.task_id == "A":
            raise ValueError("the page is empty")

    handles("summarise", do)
    add(nexus, "A", retry_policy=ONCE)
    add(nexus, "B", depends_on=["A"])
    add(nexus, "C", depends_on=["B"])
    add(nexus, "D")

    async with asyncio.timeout(30):
        state = await run_episode("EP07", agents=["Agent-1", "Agent-2"], return_state=True)

    report: EpisodeReport = await state.aresult()
    assert report.failed == ["A"]
    assert report.left == {
        "B": "it waits for A, which is failed",
        "C": "it waits for B, which is pending",
    }
    assert statuses(nexus) == {"A": "failed", "B": "pending", "C": "pending", "D": "completed"}
    assert state.is_completed()
    shown = (await artifact_of(state, "nexus-episode-ep07")).data
    assert "the page is empty" in shown
    assert "it waits for A, which is failed" in shown


async def test_what_nobody_here_can_do_is_left(nexus: TaskNexus, handles: Handles) -> None:
    handles("summarise", lambda task, context: None)
    add(nexus, "A", task_type="engrave")
    add(nexus, "B", assigned_to="Agent-9")
    add(nexus, "C", required_capabilities=["gpu"])
    add(nexus, "D", requires_review=True)
    add(nexus, "E")
    nexus.block("E", "ask first")

    async with asyncio.timeout(30):
        report = await run_episode("EP07", agents=["Agent-1"])

    assert sorted(report.left) == ["A", "B", "C", "D", "E"]
    words = {"A": "engrave", "B": "Agent-9", "C": "gpu", "D": "review", "E": "ask first"}
    assert all(word in report.left[task_id] for task_id, word in words.items())


async def test_a_retry_is_waited_for(nexus: TaskNexus, handles: Handles) -> None:
    async def flaky(task: Task, context: TaskContext) -> None:
        if context.attempt_number == 1:
            raise ValueError("no network")
        if context.attempt_number == 2:
            raise Retry("busy", after_seconds=0.5)

    handles("summarise", flaky)
    add(nexus, "A", retry_policy=RetryPolicy(backoff_seconds=1, jitter=0))

    async with asyncio.timeout(30):
        report = await run_episode("EP07", agents=["Agent-1", "Agent-2"])

    first, second, third = report.attempts["A"]
    assert third.outcome == AttemptOutcome.COMPLETED
    assert first.finished_at is not None
    assert second.finished_at is not None
    assert second.started_at - first.finished_at >= timedelta(seconds=1)
    assert third.started_at - second.finished_at >= timedelta(seconds=0.5)


async def test_what_a_dead_agent_holds_is_taken_back_inside(
    nexus: TaskNexus, handles: Handles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.episode.SWEEP_SECONDS", 0.1)
    handles("summarise", lambda task, context: context.agent_id)
    add(nexus, "A")
    nexus.start(nexus.claim("Agent-9", lease_seconds=1)[0])

    async with asyncio.timeout(60):
        report = await run_episode("EP07", agents=["Agent-1"])

    assert [one.outcome for one in report.attempts["A"]] == [AttemptOutcome.LOST, AttemptOutcome.COMPLETED]
    assert report.tasks[0].result == "Agent-1"


async def test_no_tasks() -> None:
    state = await run_episode("EP07", return_state=True)

    assert (await state.aresult()).tasks == ()
    assert state.message == "no tasks"


async def test_an_agent_that_nobody_registered(make_nexus: MakeNexus, handles: Handles) -> None:
    handles("summarise", lambda task, context: None)
    closed = make_nexus(registration="closed")
    closed.register_agent("Agent-1")
    add(closed, "A")

    with working_on(closed), pytest.raises(AgentNotConfirmed, match="Agent-2"):
        await run_episode("EP07", agents=["Agent-1", "Agent-2"])

    assert statuses(closed) == {"A": "pending"}


async def test_an_episode_that_is_stopped_hands_everything_back(nexus: TaskNexus, handles: Handles) -> None:
    """Also where one agent is idle, and so ends at once, while another's work takes a moment to wind down."""
    tidied: list[str] = []

    async def tidies_up(task: Task, context: TaskContext) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.5)
            tidied.append(task.task_id)

    handles("summarise", tidies_up)
    add(nexus, "A", assigned_to="Agent-1")
    add(nexus, "B", assigned_to="Agent-2")
    episode = asyncio.create_task(run_episode("EP07", agents=["Agent-1", "Agent-2", "Agent-3"]))
    await until(lambda: nexus.stats()["in_progress"] == 2)

    episode.cancel()

    with pytest.raises(asyncio.CancelledError):
        await episode
    assert statuses(nexus) == {"A": "pending", "B": "pending"}
    assert sorted(tidied) == ["A", "B"]
    assert nexus.attempts("A")[0].outcome == AttemptOutcome.RELEASED


async def test_a_stop_is_no_crash_in_prefect(nexus: TaskNexus, handles: Handles) -> None:
    async def sleep(task: Task, context: TaskContext) -> None:
        await asyncio.sleep(60)

    handles("summarise", sleep)
    add(nexus, "A", assigned_to="Agent-1")
    add(nexus, "B", assigned_to="Agent-2")
    episode = asyncio.create_task(run_episode("EP07", agents=["Agent-1", "Agent-2"], return_state=True))
    await until(lambda: nexus.stats()["in_progress"] == 2)

    episode.cancel()

    state = await episode
    assert (await flow_run_of(state)).state.name == "Cancelled"
    assert {one.state.name for one in (await task_runs_of(state, 2)).values()} == {"Cancelled"}


class Breaks(TaskNexus):
    """One of the agents cannot claim any more, for a reason that no waiting betters."""

    def claim(self, agent_id: str, *given: Any, **named: Any) -> Any:
        if agent_id == "Agent-2" and self.stats()["in_progress"]:
            raise AgentNotConfirmed(agent_id)
        return super().claim(agent_id, *given, **named)


async def test_a_fault_of_one_agent_ends_the_others_in_order(make_nexus: MakeNexus, handles: Handles) -> None:
    async def sleep(task: Task, context: TaskContext) -> None:
        await asyncio.sleep(60)

    handles("summarise", sleep)
    breaks = make_nexus(Breaks)
    add(breaks, "A", assigned_to="Agent-1")

    with working_on(breaks), pytest.raises(AgentNotConfirmed, match="Agent-2"):
        async with asyncio.timeout(30):
            await run_episode("EP07", agents=["Agent-1", "Agent-2"])

    assert statuses(breaks) == {"A": "pending"}


class SweepBreaks(TaskNexus):
    """Its sweep cannot be done."""

    def sweep(self, *given: Any, **named: Any) -> Any:
        raise DatabaseUnavailable("the server is restarting.")


async def test_a_sweep_that_fails_fails_nothing_else(make_nexus: MakeNexus, handles: Handles) -> None:
    handles("summarise", lambda task, context: None)
    breaks = make_nexus(SweepBreaks)
    add(breaks, "A")

    with working_on(breaks):
        report = await run_episode("EP07", agents=["Agent-1"])

    assert report.ids(TaskStatus.COMPLETED) == ["A"]
