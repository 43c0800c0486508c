"""Prefect is told the truth about runs, and is asked: real runs on a real server, a process that is really killed."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow, get_client, runtime, task
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelled, Completed, Crashed, Running

from flows import sweep_stalled_tasks
from flows.board import working_on
from flows.truth import align
from nexus import Claim, NewTask, TaskNexus

from .conftest import MakeNexus, artifact_of, claimed, flow_run_of, until

pytestmark = pytest.mark.usefixtures("prefect_api")

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def at_work(nexus: TaskNexus) -> Iterator[None]:
    with working_on(nexus):
        yield


@flow(name="left-open")
async def left_open(agent_id: str) -> tuple[str, str]:
    """A run with one task run; both are set Running again afterwards, as a killed process leaves them."""
    task_run_id = await _attempt(agent_id)
    return str(runtime.flow_run.id), task_run_id


@task
async def _attempt(agent_id: str) -> str:
    return str(runtime.task_run.id)


async def as_killed(agent_id: str = "Agent-1") -> dict[str, str]:
    """The ids of a flow run and its task run that Prefect believes Running, though nobody executes them."""
    flow_run_id, task_run_id = await left_open(agent_id)
    async with get_client() as client:
        deadline = asyncio.get_running_loop().time() + 30
        while True:  # the server writes a task run down a moment later
            try:
                if (await client.read_task_run(UUID(task_run_id))).state_type == StateType.COMPLETED:
                    break
            except Exception:
                pass
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.2)
        await client.set_flow_run_state(UUID(flow_run_id), Running(), force=True)
        await client.set_task_run_state(UUID(task_run_id), Running(), force=True)
    return {"flow_run_id": flow_run_id, "task_run_id": task_run_id}


async def states(ref: dict[str, str]) -> tuple[str, str]:
    """What Prefect says of both."""
    async with get_client() as client:
        flow_run = await client.read_flow_run(UUID(ref["flow_run_id"]))
        task_run = await client.read_task_run(UUID(ref["task_run_id"]))
    return str(flow_run.state_type.value), str(task_run.state_type.value)


async def lost(nexus: TaskNexus, ref: Any) -> Claim:
    """A task whose agent has died."""
    claim = claimed(nexus, lease_seconds=0.05)
    nexus.start(claim, ref)
    await until(lambda: nexus.sweep().expired == 1)
    return claim


async def test_the_run_of_a_lost_attempt_is_crashed_with_the_reason(nexus: TaskNexus) -> None:
    ref = await as_killed()
    await lost(nexus, ref)

    aligned = await align(nexus)

    assert await states(ref) == ("CRASHED", "CRASHED")
    async with get_client() as client:
        said = (await client.read_flow_run(UUID(ref["flow_run_id"]))).state.message
    assert said == "attempt 1 of Agent-1 at EP07-T3 was lost: the lease ended without a word"
    assert len(aligned.closed) == 2
    assert nexus.runs_to_close() == []
    assert (await align(nexus)).closed == [], "once"


async def test_a_shift_that_goes_on_is_left_alone(nexus: TaskNexus) -> None:
    ref = await as_killed()
    await lost(nexus, ref)
    other = claimed(nexus, task_id="another")
    nexus.start(other, {"flow_run_id": ref["flow_run_id"], "task_run_id": str(uuid4())})

    await align(nexus)

    assert await states(ref) == ("RUNNING", "CRASHED"), "only the attempt is over"


async def test_an_idle_shift_whose_agent_is_still_seen_is_left_alone(nexus: TaskNexus) -> None:
    ref = await as_killed()
    await lost(nexus, ref)
    with nexus._database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE nexus_agents SET last_seen_at = last_seen_at - 60000000")
    nexus.claim("Agent-1", task_types=["nothing of this"])

    await align(nexus)

    assert await states(ref) == ("RUNNING", "CRASHED")


@pytest.mark.parametrize("state", [Crashed, Cancelled])
@pytest.mark.parametrize("which", ["flow_run", "task_run"])
async def test_a_run_that_prefect_knows_to_be_over_releases_its_claim_at_once(
    nexus: TaskNexus, state: Any, which: str
) -> None:
    ref = await as_killed()
    claim = claimed(nexus, lease_seconds=3600)
    nexus.start(claim, ref)
    assert (await align(nexus)).ended == []
    async with get_client() as client:
        setter = client.set_flow_run_state if which == "flow_run" else client.set_task_run_state
        await setter(UUID(ref[f"{which}_id"]), state(message="the pod was evicted"), force=True)

    aligned = await align(nexus)

    assert len(aligned.ended) == 1
    task = nexus.get_task_by_id("EP07-T3")
    crashed = state is Crashed
    assert (task.status, task.loss_count) == ("pending", int(crashed))
    [attempt] = nexus.attempts("EP07-T3")
    assert attempt.outcome == ("lost" if crashed else "released")
    assert "the pod was evicted" in attempt.error
    assert nexus.claim_task("EP07-T3", "Agent-2")
    assert (await align(nexus)).ended == []


async def test_a_sweep_that_only_took_claims_back_says_so(nexus: TaskNexus) -> None:
    """It stands first where people look: in the state of its run, and at the top of its page."""
    ref = await as_killed()
    nexus.start(claimed(nexus, lease_seconds=3600), ref)
    async with get_client() as client:
        await client.set_flow_run_state(UUID(ref["flow_run_id"]), Crashed(message="killed"), force=True)

    state = await sweep_stalled_tasks(return_state=True)

    assert (await flow_run_of(state)).state.message == "1 taken back from runs that are over"
    page = (await artifact_of(state, "nexus-sweep")).data
    assert "**1 taken back from runs that are over**" in page
    assert "| looked at | 1 |\n| acted | 1 |" in page


async def test_a_run_whose_claim_was_taken_back_is_cancelled(make_nexus: MakeNexus) -> None:
    nexus = make_nexus(lease_seconds=0.2)
    ref = await as_killed()
    claim = claimed(nexus, lease_seconds=60)
    nexus.start(claim, ref)
    nexus.cancel("EP07-T3")
    nexus.retry("EP07-T3")
    nexus.claim_task("EP07-T3", "Agent-2")
    await asyncio.sleep(0.3)  # its process has had the time to hear of it

    await align(nexus)

    assert (await states(ref))[1] == "CANCELLED"
    assert nexus.runs_to_close() == []


async def test_a_runner_is_asked_to_end_a_run_whose_claim_was_superseded(nexus: TaskNexus) -> None:
    """Of a deployment the process may still be there, hung: its runner can end it. Where nobody does, it is crashed."""
    async with get_client() as client:
        flow_id = await client.create_flow_from_name("execute-task")
        deployment_id = await client.create_deployment(flow_id, f"for this test {uuid4()}")
        run = await client.create_flow_run_from_deployment(
            deployment_id, parameters={"task_id": "EP07-T3", "agent_id": "Agent-1"}
        )
        await client.set_flow_run_state(run.id, Running(), force=True)
    await lost(nexus, {"flow_run_id": str(run.id)})
    nexus.claim_task("EP07-T3", "Agent-2")

    await align(nexus)

    async with get_client() as client:
        after = await client.read_flow_run(run.id)
        assert after.state_type == StateType.CANCELLING
        assert "the task has a newer claim" in after.state.message
        assert len(nexus.runs_to_close()) == 1

        await align(nexus)
        assert (await client.read_flow_run(run.id)).state_type == StateType.CRASHED
    assert nexus.runs_to_close() == []


async def test_a_run_that_ended_properly_is_left_as_it_is(nexus: TaskNexus) -> None:
    ref = await as_killed()
    async with get_client() as client:
        await client.set_task_run_state(UUID(ref["task_run_id"]), Completed(), force=True)
        await client.set_flow_run_state(UUID(ref["flow_run_id"]), Completed(), force=True)
    await lost(nexus, ref)

    assert (await align(nexus)).closed == []

    assert await states(ref) == ("COMPLETED", "COMPLETED")
    assert nexus.runs_to_close() == []


@pytest.mark.parametrize("ref", [{"flow_run_id": str(uuid4())}, {"flow_run_id": "mine"}, "a shell script", [1], {}])
async def test_what_prefect_does_not_know_is_told_nothing(nexus: TaskNexus, ref: Any) -> None:
    await lost(nexus, ref)
    assert (await align(nexus)).closed == []
    assert nexus.runs_to_close() == []


async def test_prefect_being_away_delays_it_and_breaks_nothing(
    nexus: TaskNexus, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    ref = await as_killed()
    await lost(nexus, ref)
    nowhere = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(updates=nowhere):
        assert (await align(nexus)).closed == []
    assert len(nexus.runs_to_close()) == 1

    assert len((await align(nexus)).closed) == 2
    assert await states(ref) == ("CRASHED", "CRASHED")


KILLED = """
import asyncio, time
from flows import execute_task, handler

@handler("summarise")
def hang(task, context):
    print("begun", flush=True)
    time.sleep(600)

asyncio.run(execute_task("EP07-T3", "Agent-1"))
"""


def begin_and_kill(env: dict[str, str]) -> None:
    """A process that begins to work, and is killed in the middle of it."""
    process = subprocess.Popen([sys.executable, "-c", KILLED], env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


async def test_a_process_that_is_killed(nexus: TaskNexus, prefect_api: str) -> None:
    """kill -9: Prefect believes the run Running for ever; the lease knows better, and the sweep says so."""
    nexus.add_task(NewTask(task_id="EP07-T3", task_type="summarise"))
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PREFECT_API_URL": prefect_api,
        "NEXUS_DATABASE_URL": nexus.settings.database_url,
        "NEXUS_LEASE_SECONDS": "2",
    }
    await asyncio.to_thread(begin_and_kill, env)
    [attempt] = nexus.attempts("EP07-T3")
    flow_run_id = UUID(attempt.run_ref["flow_run_id"])
    async with get_client() as client:
        assert (await client.read_flow_run(flow_run_id)).state_type == StateType.RUNNING
    await until(lambda: nexus.current_claim("EP07-T3").lease_expires_at < nexus.now())

    state = await sweep_stalled_tasks(return_state=True)

    assert (await state.aresult()).expired == 1
    async with get_client() as client:
        after = await client.read_flow_run(flow_run_id)
    assert after.state_type == StateType.CRASHED
    assert "the lease ended without a word" in after.state.message
    assert nexus.get_task_by_id("EP07-T3").status == "pending"
    assert (await flow_run_of(state)).state.is_completed()
