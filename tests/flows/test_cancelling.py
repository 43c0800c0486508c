"""Stopping agents from outside: real processes, real signals, a real runner. What they held is never left lying."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from deployments.catalog import EXECUTE, SHIFT
from deployments.runner_process import RunnerProcess
from nexus import AttemptOutcome, NewTask, NexusSettings, Task, TaskNexus, TaskStatus
from nexus.errors import ClaimLost

from .conftest import until

ROOT = Path(__file__).parents[2]

WORK = """
import asyncio, sys, threading, time
from flows import handler, process_agent_tasks

def say(word):
    sys.stdout.write(word + "\\n")  # in one piece: handlers speak at the same time
    sys.stdout.flush()

@handler("polite")
async def polite(task, context):
    try:
        say("begun")  # who hears it may strike at once
        await asyncio.sleep(600)
    finally:
        await asyncio.sleep(0.3)
        say("tidied")

@handler("watching")
def watching(task, context):
    say("begun")
    context.stop.wait(600)
    say("tidied")

@handler("blocking")
async def blocking(task, context):
    try:
        say("begun")
        time.sleep(600)
    finally:
        say("tidied")

if __name__ == "__main__":
    agent_id, hands, lease = sys.argv[1:]
    asyncio.run(process_agent_tasks(agent_id, concurrency=int(hands), lease_seconds=float(lease)))
"""


STRUCK = """
import asyncio, os, signal
from flows import observe, process_agent_tasks
from flows.shift import Shift

async def strike(shift):
    os.kill(os.getpid(), signal.SIGTERM)
    return 0.0

observe.PROGRESS_SECONDS, Shift.progress = 0.1, strike
asyncio.run(process_agent_tasks("Agent-2", mode="wait"))
"""
"""An idle agent whom the signal meets where most of its own time goes: while it says how far it is."""


BUSY = """
import asyncio, os, signal, time
from flows import handler, process_agent_tasks
from nexus import NewTask, TaskNexus

at = iter(range(1, 100_000))

def call_back():
    if next(at) == 400:
        os.kill(os.getpid(), signal.SIGTERM)

@handler("short")
async def short(task, context):
    asyncio.get_running_loop().call_soon(call_back)
    await asyncio.sleep(0)

asyncio.run(process_agent_tasks("Agent-2", concurrency=16, mode="wait", observe="shift"))
"""
"""An agent at work on short tasks, which the signal meets in a callback of its loop."""


class Work:
    """A folder with a board, and the processes that work on it."""

    def __init__(self, folder: Path, nexus: TaskNexus, api: str) -> None:
        self.folder, self.nexus, self._started = folder, nexus, list[subprocess.Popen[str]]()
        (folder / "work.py").write_text(WORK)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("NEXUS_", "PREFECT_"))}
        self.environment = {
            **environment,
            # The handler for commands passes it on: what they start is found by it.
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "NEXUS_HOME": str(folder),
            "NEXUS_DATABASE_URL": nexus.settings.database_url,
            "NEXUS_COMMAND__ALLOWED_PROGRAMS": '["sleep"]',
            "PREFECT_API_URL": api,
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            "DO_NOT_TRACK": "1",
        }

    def start(
        self, agent_id: str, *, hands: int = 4, lease_seconds: float = 60, program: str = "work.py"
    ) -> "subprocess.Popen[str]":
        with (self.folder / "work.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-u", program, agent_id, str(hands), str(lease_seconds)],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._started.append(process)
        return process

    def programs(self) -> list[int]:
        """What the handler for commands has started, and what has not ended yet."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                ours = f"HOME={self.folder}".encode() in (folder / "environ").read_bytes().split(b"\0")
                zombie = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                if ours and not zombie and (folder / "cmdline").read_bytes().startswith(b"sleep\0"):
                    found.append(int(folder.name))
        return found

    def add(self, task_type: str = "command", task_id: str = "EP07-T3") -> None:
        payload = {"argv": ["sleep", "600"]} if task_type == "command" else {}
        self.nexus.add_task(NewTask(task_id=task_id, task_type=task_type, payload=payload, timeout_seconds=600))

    def task(self, task_id: str = "EP07-T3") -> Task:
        task = self.nexus.get_task_by_id(task_id)
        assert task is not None
        return task

    async def at_work(self, task_id: str = "EP07-T3", process: "subprocess.Popen[str] | None" = None) -> None:
        """Until the program runs, or the handler says so."""

        def begun() -> bool:
            assert process is None or process.poll() is None, (self.folder / "work.log").read_text()
            return self.task(task_id).status == TaskStatus.IN_PROGRESS

        await until(begun, 60)
        if self.task(task_id).task_type == "command":
            await until(self.programs, 20)
        elif process is not None:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        for pid in self.programs():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def work(tmp_path: Path, nexus: TaskNexus, prefect_api: str) -> Iterator[Work]:
    work = Work(tmp_path, nexus, prefect_api)
    yield work
    work.close()


def ended(process: "subprocess.Popen[str]", seconds: float = 25) -> str:
    """What it said last. Prefect's runner kills 30 s after its SIGTERM."""
    said, _ = process.communicate(timeout=seconds)
    return said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_agent_that_is_told_to_stop_releases_its_tasks(work: Work, number: signal.Signals) -> None:
    work.add(task_id="command")
    work.add("polite", "polite")
    work.add("watching", "watching")
    process = work.start("Agent-2")
    for task_id in ("command", "polite", "watching"):
        await work.at_work(task_id, process)

    process.send_signal(number)
    said = ended(process)

    log = (work.folder / "work.log").read_text()
    for task in work.nexus.get_all_tasks():
        assert (task.status, task.failure_count) == (TaskStatus.PENDING, 0), log
        assert [one.outcome for one in work.nexus.attempts(task.task_id)] == [AttemptOutcome.RELEASED], log
    assert said.split() == ["tidied", "tidied"]
    assert work.programs() == []
    assert process.returncode != 0


@pytest.mark.parametrize("program", [STRUCK, BUSY])
async def test_a_signal_that_comes_where_nobody_would_hear_of_it_stops_the_agent(work: Work, program: str) -> None:
    (work.folder / "struck.py").write_text(program)
    work.nexus.add_tasks(NewTask(task_type="short") for _ in range(3000))
    process = work.start("Agent-2", program="struck.py")
    ended(process)
    log = (work.folder / "work.log").read_text()
    assert "Finished in state Cancelled('stopped: it was told to stop" in log, log
    assert log.rstrip().endswith("prefect.exceptions.TerminationSignal"), log
    assert "Traceback" not in log.partition("Finished in state")[0], log
    assert process.returncode == 1
    assert work.nexus.stats().keys() <= {"pending", "completed"}, "nothing is left in its hands"
    assert work.nexus.stats()["pending"] > 0


async def test_a_signal_that_strikes_inside_a_handler_stops_the_agent(work: Work) -> None:
    """One that never gives way to the loop is struck after a while, in the main thread, as by Prefect."""
    work.add("blocking")
    process = work.start("Agent-2")
    await work.at_work(process=process)

    process.send_signal(signal.SIGTERM)

    assert ended(process) == "tidied\n"
    assert (work.task().status, work.task().failure_count) == (TaskStatus.PENDING, 0)
    assert [one.outcome for one in work.nexus.attempts("EP07-T3")] == [AttemptOutcome.RELEASED]
    assert process.returncode != 0


async def test_what_a_dead_agent_held_is_lost_when_its_lease_ends(work: Work) -> None:
    """One is killed. One stands still for a while; it is refused then, and stops its work."""
    work.add(task_id="T-1")
    work.add(task_id="T-2")
    killed = work.start("Agent-1", hands=1, lease_seconds=2)
    frozen = work.start("Agent-2", hands=1, lease_seconds=2)
    await work.at_work("T-1")
    await work.at_work("T-2")
    await until(lambda: len(work.programs()) == 2)
    old = {task.claimed_by: work.nexus.current_claim(task.task_id) for task in work.nexus.get_all_tasks()}

    killed.kill()
    frozen.send_signal(signal.SIGSTOP)

    assert work.nexus.stats() == {"in_progress": 2}, "nobody knows yet"
    assert work.nexus.claim("Agent-3") == []
    await until(lambda: work.nexus.sweep() and work.nexus.stats()["pending"] == 2, 10)
    newer = work.nexus.claim("Agent-3", limit=2)
    for claim in newer:
        work.nexus.start(claim)
    with pytest.raises(ClaimLost):
        work.nexus.complete(old["Agent-1"], "too late")
    frozen.send_signal(signal.SIGCONT)
    await until(lambda: len(work.programs()) == 1, 20)  # the killed one's is an orphan that nobody ends
    ended(frozen)

    for claim in newer:
        assert work.nexus.complete(claim, "in time").result == "in time"
        outcomes = [one.outcome for one in work.nexus.attempts(claim.task_id)]
        assert outcomes == [AttemptOutcome.LOST, AttemptOutcome.COMPLETED]
    assert work.nexus.attempts(old["Agent-1"].task_id)[0].late_result == "too late"
    assert work.nexus.attempts(old["Agent-2"].task_id)[0].late_result is None


# -- from the UI --------------------------------------------------------------------------------------------------


@pytest.fixture
def runner(work: Work, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """The runner of `nexus up`, serving the deployments."""
    for name, value in work.environment.items():
        monkeypatch.setenv(name, value)
    process = RunnerProcess(NexusSettings.load(), pause_at_end=True)
    try:
        yield process.registered
    finally:
        process.terminate()
        process.end(lambda: False)


async def submit(deployment: str, parameters: dict[str, Any]) -> UUID:
    """As the UI's form does."""
    from prefect import get_client

    async with get_client() as client:
        found = await client.read_deployment_by_name(deployment)
        return (await client.create_flow_run_from_deployment(found.id, parameters=parameters)).id


async def cancel(flow_run_id: UUID) -> float:
    """As the UI's button does; the seconds until the run says Cancelled."""
    from prefect import get_client
    from prefect.states import Cancelling

    began = time.monotonic()
    async with get_client() as client:
        await client.set_flow_run_state(flow_run_id, Cancelling())
        while True:
            run = await client.read_flow_run(flow_run_id)
            assert run.state is not None
            if run.state.is_final():
                assert run.state.name == "Cancelled", run.state
                return time.monotonic() - began
            assert time.monotonic() - began < 60, run.state


async def test_cancelling_a_run_stops_the_work_and_releases_the_task(
    work: Work, runner: Callable[[], bool], tmp_path: Path
) -> None:
    work.add(task_id="T-1")
    work.add(task_id="T-2")
    await until(runner, 90)
    shift = await submit(SHIFT, {"agent_id": "Agent-2", "max_tasks": 1})
    await work.at_work("T-1")
    one = await submit(EXECUTE, {"task_id": "T-2", "agent_id": "Agent-3"})
    await work.at_work("T-2")
    await until(lambda: len(work.programs()) == 2)

    seconds = await cancel(shift)

    log = (tmp_path / "runner.log").read_text()
    assert work.task("T-1").status == TaskStatus.PENDING, log
    assert [attempt.outcome for attempt in work.nexus.attempts("T-1")] == [AttemptOutcome.RELEASED]
    assert work.task("T-2").status == TaskStatus.IN_PROGRESS, "the other run is not touched"
    assert len(work.programs()) == 1
    assert seconds < 25, "Prefect's runner kills after 30 s"

    await cancel(one)

    assert work.task("T-2").status == TaskStatus.PENDING
    assert [attempt.outcome for attempt in work.nexus.attempts("T-2")] == [AttemptOutcome.RELEASED]
    assert work.programs() == []
