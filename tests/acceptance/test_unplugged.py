"""The Prefect server is unplugged in the middle of a shift: no work and no state is lost, and the UI catches up."""

import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deployments.ports import free_port
from deployments.prefect_server import OwnServer
from nexus import AttemptOutcome, NewTask, NexusSettings, TaskNexus, TaskStatus

from ..deployments.live import Command, ask, processes_of
from .conftest import wait_until

TASKS = 40
"""Prefect hands out fifty events at once."""

LAG = timedelta(seconds=1.5)
"""Behind which Prefect's server may be; see the README on what is seen when."""

SHIFT = """
import asyncio
from flows import process_agent_tasks
print("ended", asyncio.run(process_agent_tasks("Agent-1", concurrency=2, mode="wait", max_tasks=40)).summary())
"""


def task(number: int) -> NewTask:
    return NewTask(task_id=f"T-{number:02}", task_type="command", payload={"argv": ["sleep", "0.3"]})


@pytest.fixture
def settings(tmp_path: Path) -> NexusSettings:
    return NexusSettings(
        home=tmp_path, database_url=f"sqlite:///{tmp_path / 'board.db'}", service={"port": free_port("127.0.0.1")}
    )


@pytest.fixture
def server(settings: NexusSettings, tmp_path: Path) -> Iterator[OwnServer]:
    server = OwnServer(settings)
    server.enter(lambda _: None, lambda: None)
    yield server
    server.leave()
    left = processes_of(tmp_path)
    assert not left, f"left behind: {left}"


def test_the_server_is_unplugged_in_the_middle_of_a_shift(
    settings: NexusSettings, server: OwnServer, tmp_path: Path
) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("NEXUS_", "PREFECT_"))} | {
        "PREFECT_API_URL": server.url,
        "NEXUS_DATABASE_URL": settings.database_url,
        "NEXUS_HOME": str(tmp_path),
        "NEXUS_COMMAND__ALLOWED_PROGRAMS": '["sleep"]',
    }
    with TaskNexus(settings=settings) as nexus:
        nexus.add_tasks([task(n) for n in range(TASKS - 15)])
        shift = Command(SHIFT, env=env, cwd=tmp_path)
        try:

            def done() -> int:
                return nexus.stats()[TaskStatus.COMPLETED]

            wait_until(lambda: done() >= 6, lambda: str(shift.lines))
            assert server.process is not None
            gone = datetime.now(UTC)
            server.process.signal(signal.SIGKILL, group=True)
            server.process.wait(10)
            unplugged = done()
            wait_until(lambda: done() >= unplugged + 10, lambda: f"{unplugged} before, {done()} now: {shift.lines}")
            server.restart(lambda _: None, lambda: None)
            nexus.add_tasks([task(n) for n in range(TASKS - 15, TASKS)])
            shift.says(f"ended {TASKS} completed", 120)
        finally:
            shift.close()
        attempts = [one for n in range(TASKS) for one in nexus.attempts(f"T-{n:02}")]
    assert [one.outcome for one in attempts] == [AttemptOutcome.COMPLETED] * TASKS, "each once, and none twice"

    def ended() -> Any:
        [run] = ask(server.url, "/flow_runs/filter", {"flow_runs": {"name": {"any_": ["Agent-1 · shift"]}}})
        return run["state"] if run["state_type"] == "COMPLETED" else None

    assert wait_until(ended, lambda: "the shift's run")["message"] == f"{TASKS} completed"
    # What Prefect's server had taken and not yet written down when it was killed is lost to it, and no more than that.
    safe = {one.task_id for one in attempts if one.finished_at and not gone - LAG < one.finished_at <= gone}
    assert len(safe) > TASKS - 12
    names = {f"{task_id} · attempt 1 · Agent-1" for task_id in safe}

    def shown() -> set[str]:
        found = ask(server.url, "/task_runs/filter", {"limit": 200})
        return names - {run["name"] for run in found if run["state_name"] == "Completed"}

    wait_until(lambda: not shown(), lambda: f"no run is completed of {shown()}", 60)

    def told() -> set[str]:
        wanted = {"filter": {"event": {"name": ["nexus.task.completed"]}}, "limit": 50}
        found = ask(server.url, "/events/filter", wanted)["events"]
        return safe - {one["resource"]["prefect.resource.id"].removeprefix("nexus.task.") for one in found}

    wait_until(lambda: not told(), lambda: f"no event of {told()}", 60)
