"""`execute_task`: one task, one flow run, its attempts as retries; what the board knows and what Prefect shows."""

import asyncio
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from flows import GiveUp, Retry, TaskContext, execute_task
from flows.board import working_on
from flows.runner import NoHandler
from nexus import AttemptOutcome, NewTask, RetryPolicy, Task, TaskNexus, TaskStatus
from nexus.errors import AgentNotConfirmed, TaskNotFound

from .conftest import (
    ONCE,
    Handles,
    MakeNexus,
    artifact_of,
    flow_run_of,
    task_run_that_says,
    task_runs_of,
    until,
    until_the_server_knows_its_task_run,
)

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture(autouse=True)
def at_work(nexus: TaskNexus) -> Iterator[None]:
    with working_on(nexus):
        yield


def add(nexus: TaskNexus, task_id: str = "EP07-T3", **fields: Any) -> None:
    nexus.add_task(NewTask(**{"task_id": task_id, "task_type": "summarise", **fields}))


def task_of(nexus: TaskNexus, task_id: str = "EP07-T3") -> Task:
    task = nexus.get_task_by_id(task_id)
    assert task is not None
    return task


async def test_a_task_is_executed(nexus: TaskNexus, handles: Handles) -> None:
    handles("summarise", lambda task, context: {"words": 3})
    add(nexus, episode_id="EP07")

    state = await execute_task("EP07-T3", "Agent-2", return_state=True)

    assert await state.aresult() is True
    assert task_of(nexus).status == TaskStatus.COMPLETED
    assert task_of(nexus).result == {"words": 3}
    assert task_of(nexus).claimed_by == "Agent-2"
    [attempt] = nexus.attempts("EP07-T3")
    run = await flow_run_of(state)
    [task_run] = (await task_runs_of(state, 1)).values()
    assert attempt.run_ref == {"flow_run_id": str(run.id), "task_run_id": str(task_run.id), "run_count": 1}
    assert run.name == "EP07-T3 · Agent-2"
    assert {"nexus", "agent:Agent-2", "type:summarise", "episode:EP07"} <= set(run.tags)
    assert run.state.is_completed()
    assert task_run.name == "EP07-T3 · attempt 1 · Agent-2"
    assert {"agent:Agent-2", "type:summarise", "episode:EP07"} <= set(task_run.tags)


async def test_the_runs_page_leads_back_to_the_task(nexus: TaskNexus, handles: Handles) -> None:
    async def fail(task: Task, context: TaskContext) -> None:
        raise GiveUp("the | page is <gone>")

    handles("summarise", fail)
    add(nexus, description="Summarise the third part")

    state = await execute_task("EP07-T3", "Agent-2", return_state=True)

    page = (await artifact_of(state, "nexus-task-ep07-t3")).data.splitlines()
    assert page[0] == "# EP07-T3"
    assert "| status | failed |" in page
    assert "| what | Summarise the third part |" in page
    assert any(line.startswith("| 1 | Agent-2 | failed |") and "the \\| page is &lt;gone&gt;" in line for line in page)
    assert [line.split(" | ")[1] for line in page if line.startswith("| 20")] == ["add", "claim", "start", "fail"]
    assert page[-1] == "More: `nexus show EP07-T3`, `nexus explain EP07-T3`"


async def test_a_review_is_somebody_elses(nexus: TaskNexus, handles: Handles) -> None:
    handles("summarise", lambda task, context: None)
    add(nexus, requires_review=True)

    assert await execute_task("EP07-T3", "Agent-2") is True
    assert task_of(nexus).status == TaskStatus.IN_REVIEW


async def test_failed_attempts_are_tried_again_in_the_same_task_run(nexus: TaskNexus, handles: Handles) -> None:
    async def flaky(task: Task, context: TaskContext) -> str:
        if context.attempt_number < 3:
            raise ValueError(f"no network at try {context.attempt_number}")
        return "done"

    handles("summarise", flaky)
    add(nexus)

    state = await execute_task("EP07-T3", "Agent-2", return_state=True)

    assert await state.aresult() is True
    attempts = nexus.attempts("EP07-T3")
    assert [one.outcome for one in attempts] == [
        AttemptOutcome.FAILED,
        AttemptOutcome.FAILED,
        AttemptOutcome.COMPLETED,
    ]
    assert [one.run_ref["run_count"] for one in attempts] == [1, 2, 3]
    assert len({one.run_ref["task_run_id"] for one in attempts}) == 1
    assert {one.run_ref["flow_run_id"] for one in attempts} == {str(state.state_details.flow_run_id)}
    [task_run] = (await task_runs_of(state, 1)).values()
    assert task_run.run_count == 3
    assert task_run.name == "EP07-T3 · attempt 3 · Agent-2"


async def test_while_a_retry_is_awaited_its_run_says_why(nexus: TaskNexus, handles: Handles) -> None:
    async def flaky(task: Task, context: TaskContext) -> str:
        if context.attempt_number == 1:
            await until_the_server_knows_its_task_run()  # and so its next state is written a flush later
            raise ValueError(f"no network; the key was {task.payload['api_key']}")
        return "done"

    handles("summarise", flaky)
    add(nexus, payload={"api_key": "tr0ub4dor-and-3"}, retry_policy=RetryPolicy(backoff_seconds=12, jitter=0))

    running = asyncio.create_task(execute_task("EP07-T3", "Agent-2", return_state=True))

    waiting = await task_run_that_says("no network; the key was", "EP07-T3 · attempt 1 · Agent-2")
    assert waiting.state.name == "AwaitingRetry"
    assert waiting.state.is_scheduled()
    due = task_of(nexus).available_at
    assert due is not None
    assert waiting.state.message == f"ValueError: no network; the key was ***; offered again at {due:%H:%M:%S} UTC"
    assert abs(waiting.state.state_details.scheduled_time - due) < timedelta(seconds=1)
    state = await running
    assert await state.aresult() is True
    [task_run] = (await task_runs_of(state, 1)).values()
    assert task_run.state.is_completed()
    assert task_run.run_count == 2


async def test_a_dead_letter_is_red_and_says_why(nexus: TaskNexus, handles: Handles) -> None:
    async def fail(task: Task, context: TaskContext) -> None:
        raise ValueError("the page is empty")

    handles("summarise", fail)
    add(nexus)

    state = await execute_task("EP07-T3", "Agent-2", return_state=True)

    run = await flow_run_of(state)
    assert run.state.is_failed()
    assert "the page is empty" in run.state.message
    with pytest.raises(ValueError, match="the page is empty"):
        await state.aresult()
    assert task_of(nexus).status == TaskStatus.FAILED
    assert len(nexus.attempts("EP07-T3")) == 3


async def test_a_secret_in_an_error_is_neither_in_the_run_nor_in_its_log(
    nexus: TaskNexus, handles: Handles, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(task: Task, context: TaskContext) -> None:
        context.logger.info("logging in with %s", task.payload["api_key"])
        try:
            raise OSError(task.payload["api_key"])
        except OSError as error:
            raise ValueError(f"refused: {error}") from error

    handles("summarise", fail)
    add(nexus, payload={"api_key": "tr0ub4dor-and-3"}, retry_policy=ONCE)

    state = await execute_task("EP07-T3", "Agent-2", return_state=True)

    run = await flow_run_of(state)
    [task_run] = (await task_runs_of(state, 1)).values()
    for message in (run.state.message, task_run.state.message, task_of(nexus).error):
        assert "ValueError: refused: ***" in message
    assert "tr0ub4dor" not in caplog.text + run.model_dump_json() + task_run.model_dump_json()
    assert "logging in with ***" in caplog.text


@pytest.mark.parametrize("error", [GiveUp("the page is gone"), KeyError("page")])
async def test_what_no_try_can_better_is_tried_once(nexus: TaskNexus, handles: Handles, error: Exception) -> None:
    async def fail(task: Task, context: TaskContext) -> None:
        raise error

    handles("summarise", fail)
    add(nexus, retry_policy=RetryPolicy(max_attempts=5, backoff_seconds=0, non_retryable=("KeyError",)))

    with pytest.raises(type(error)):
        await execute_task("EP07-T3", "Agent-2")

    assert len(nexus.attempts("EP07-T3")) == 1
    assert task_of(nexus).status == TaskStatus.FAILED


async def test_an_attempt_that_took_too_long_is_a_failed_run(nexus: TaskNexus, handles: Handles) -> None:
    async def sleep(task: Task, context: TaskContext) -> None:
        await asyncio.sleep(60)

    handles("summarise", sleep)
    add(nexus, timeout_seconds=0.2, retry_policy=ONCE)

    state = await execute_task("EP07-T3", "Agent-2", return_state=True)

    assert state.is_failed()
    assert "longer than 0.2 s" in str(state.message)
    assert nexus.attempts("EP07-T3")[0].outcome == AttemptOutcome.TIMED_OUT


@pytest.mark.parametrize(
    ("policy_seconds", "asked", "least", "most"),
    [(0.0, 1.0, 1.0, 15.0), (60.0, 0.1, 0.1, 15.0), (1.0, None, 1.0, 15.0)],
    ids=["later than the policy says", "sooner than the policy says", "when the policy says"],
)
async def test_a_retry_comes_when_it_was_asked_for(
    nexus: TaskNexus, handles: Handles, policy_seconds: float, asked: float | None, least: float, most: float
) -> None:
    async def busy(task: Task, context: TaskContext) -> str:
        if context.attempt_number == 1:
            raise Retry("busy", after_seconds=asked)
        return "done"

    handles("summarise", busy)
    add(nexus, retry_policy=RetryPolicy(backoff_seconds=policy_seconds, jitter=0))

    async with asyncio.timeout(30):
        assert await execute_task("EP07-T3", "Agent-2") is True

    first, second = nexus.attempts("EP07-T3")
    assert first.finished_at is not None
    waited = second.started_at - first.finished_at
    assert timedelta(seconds=least) <= waited < timedelta(seconds=most)


async def test_a_task_that_failed_before_has_only_what_is_left_of_its_budget(
    nexus: TaskNexus, handles: Handles
) -> None:
    async def fail(task: Task, context: TaskContext) -> None:
        raise ValueError(f"try {context.attempt_number}")

    handles("summarise", fail)
    add(nexus)
    nexus.mark_task_in_progress("EP07-T3", "Agent-1")
    nexus.mark_task_failed("EP07-T3", "no network")

    with pytest.raises(ValueError, match="try 3"):
        await execute_task("EP07-T3", "Agent-2")

    assert len(nexus.attempts("EP07-T3")) == 3


# -- what is refused ------------------------------------------------------------------------------------------


def hold(nexus: TaskNexus) -> None:
    nexus.claim_task("EP07-T3", "Agent-1")


def finish(nexus: TaskNexus) -> None:
    nexus.mark_task_in_progress("EP07-T3", "Agent-1")
    nexus.mark_task_completed("EP07-T3")


def block(nexus: TaskNexus) -> None:
    nexus.block("EP07-T3", "ask first")


@pytest.mark.parametrize(
    ("fields", "move", "why"),
    [
        ({}, hold, "Agent-1 holds it"),
        ({}, finish, "completed"),
        ({}, block, "ask first"),
        ({"assigned_to": "Agent-9"}, None, "assigned to Agent-9"),
        ({"depends_on": ["first"]}, None, "waits for first"),
        ({"available_at": "2099-01-01T00:00:00Z"}, None, "not offered before"),
    ],
    ids=["held", "ended", "blocked", "assigned", "dependency", "not yet"],
)
async def test_a_refused_claim_is_no_failure(
    nexus: TaskNexus, handles: Handles, fields: dict[str, Any], move: Any, why: str
) -> None:
    handles("summarise", lambda task, context: None)
    add(nexus, "first")
    add(nexus, **fields)
    if move:
        move(nexus)
    before = task_of(nexus)

    state = await execute_task("EP07-T3", "Agent-2", return_state=True)

    assert await state.aresult() is False
    run = await flow_run_of(state)
    assert run.state.is_completed()
    assert run.state.name == "Refused"
    assert why in run.state.message
    assert task_of(nexus) == before


async def test_nothing_is_red_in_a_run_that_was_refused(nexus: TaskNexus, handles: Handles) -> None:
    handles("summarise", lambda task, context: None)
    add(nexus)
    hold(nexus)

    state = await execute_task("EP07-T3", "Agent-2", return_state=True)

    [task_run] = (await task_runs_of(state, 1)).values()
    assert (task_run.state.is_completed(), task_run.state.name) == (True, "Refused")


async def test_a_task_that_was_blocked_between_two_attempts(nexus: TaskNexus, handles: Handles) -> None:
    async def fail(task: Task, context: TaskContext) -> None:
        raise ValueError("no network")

    handles("summarise", fail)
    add(nexus, retry_policy=RetryPolicy(backoff_seconds=1, jitter=0))
    running = asyncio.create_task(execute_task("EP07-T3", "Agent-2", return_state=True))
    await until(lambda: task_of(nexus).failure_count)
    block(nexus)

    state = await running

    assert (await state.aresult(), state.name) == (False, "Refused")
    assert task_of(nexus).status == TaskStatus.BLOCKED
    assert len(nexus.attempts("EP07-T3")) == 1


async def test_a_task_that_was_cancelled_meanwhile(nexus: TaskNexus, handles: Handles) -> None:
    async def cancels(task: Task, context: TaskContext) -> str:
        await asyncio.to_thread(nexus.cancel, "EP07-T3", "not needed any more")
        return "done"

    handles("summarise", cancels)
    add(nexus)

    state = await execute_task("EP07-T3", "Agent-2", return_state=True)

    assert state.is_cancelled()
    assert state.message == "attempt 1 at EP07-T3 ended: the task was cancelled"
    [task_run] = (await task_runs_of(state, 1)).values()
    assert task_run.state.is_cancelled()
    assert task_of(nexus).status == TaskStatus.CANCELLED
    assert len(nexus.attempts("EP07-T3")) == 1


async def test_no_such_task() -> None:
    with pytest.raises(TaskNotFound, match="EP99"):
        await execute_task("EP99", "Agent-2")


async def test_an_agent_that_nobody_registered(make_nexus: MakeNexus, handles: Handles) -> None:
    handles("summarise", lambda task, context: None)
    closed = make_nexus(registration="closed")
    add(closed)
    before = task_of(closed)

    with working_on(closed), pytest.raises(AgentNotConfirmed, match="nexus agents register Agent-2"):
        await execute_task("EP07-T3", "Agent-2")

    assert task_of(closed) == before
    assert closed.agents() == []
    closed.register_agent("Agent-2")
    with working_on(closed):
        assert await execute_task("EP07-T3", "Agent-2") is True


@pytest.mark.parametrize("task_type", ["engrave", "command", "http"])
async def test_what_nothing_here_may_do_is_left_for_others(nexus: TaskNexus, task_type: str) -> None:
    add(nexus, task_type=task_type, payload={"argv": ["ls"]})
    before = task_of(nexus)

    with pytest.raises(NoHandler, match=task_type):
        await execute_task("EP07-T3", "Agent-2")

    assert task_of(nexus) == before


async def test_a_cancelled_flow_releases_its_task(nexus: TaskNexus, handles: Handles) -> None:
    async def sleep(task: Task, context: TaskContext) -> None:
        await asyncio.sleep(60)

    handles("summarise", sleep)
    add(nexus)
    running = asyncio.create_task(execute_task("EP07-T3", "Agent-2"))
    await until(lambda: task_of(nexus).status == TaskStatus.IN_PROGRESS)
    began = time.monotonic()

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert time.monotonic() - began < 10
    assert task_of(nexus).status == TaskStatus.PENDING
    assert nexus.attempts("EP07-T3")[0].outcome == AttemptOutcome.RELEASED


async def test_a_flow_that_is_stopped_is_no_crash_in_prefect(nexus: TaskNexus, handles: Handles) -> None:
    async def sleep(task: Task, context: TaskContext) -> None:
        await asyncio.sleep(60)

    handles("summarise", sleep)
    add(nexus)
    running = asyncio.create_task(execute_task("EP07-T3", "Agent-2", return_state=True))
    await until(lambda: task_of(nexus).status == TaskStatus.IN_PROGRESS)

    running.cancel()

    state = await running
    assert (await flow_run_of(state)).state.name == "Cancelled"
    (attempt,) = (await task_runs_of(state, 1)).values()
    assert (attempt.state.name, attempt.state.message) == ("Cancelled", "handed back: its agent stopped")


async def test_a_flow_that_is_cancelled_while_it_claims_holds_nothing(make_nexus: MakeNexus, handles: Handles) -> None:
    class Claims(TaskNexus):
        running: "asyncio.Task[Any]"

        def claim_task(self, *given: Any, **named: Any) -> Any:
            claim = super().claim_task(*given, **named)
            self.running.get_loop().call_soon_threadsafe(self.running.cancel)
            time.sleep(0.2)
            return claim

    begun: list[str] = []
    handles("summarise", lambda task, context: begun.append(task.task_id))
    claims = make_nexus(Claims)
    add(claims)
    with working_on(claims):
        claims.running = asyncio.create_task(execute_task("EP07-T3", "Agent-2"))

    with pytest.raises(asyncio.CancelledError):
        await claims.running

    assert task_of(claims).status == TaskStatus.PENDING
    assert task_of(claims).claim_no == 1
    assert begun == []
