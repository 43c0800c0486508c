"""What the stories about flows share: a board with a real clock, handlers for the time of a test, Prefect's server."""

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest

from flows.handlers.contract import Handler
from flows.handlers.registry import registered
from nexus import Claim, NewTask, NexusSettings, RetryPolicy, TaskNexus

Handles = Callable[[str, Handler], None]
MakeNexus = Callable[..., TaskNexus]

AT_ONCE = RetryPolicy(backoff_seconds=0, jitter=0)
"""Three attempts, without waiting."""
ONCE = RetryPolicy(max_attempts=1)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test in a folder of its own, and none of this machine's settings."""
    for name in list(os.environ):
        if name.startswith("NEXUS_") and not name.startswith("NEXUS_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def make_nexus(tmp_path: Path) -> Iterator[MakeNexus]:
    """Opens the test's board; keywords are settings. Leases and backoffs are real time here, and short."""
    opened: list[TaskNexus] = []

    def make(kind: type[TaskNexus] = TaskNexus, **settings: Any) -> TaskNexus:
        url = f"sqlite:///{tmp_path / 'board.db'}"
        # No test here cuts the power.
        settings = {"database_url": url, "sqlite_synchronous": "NORMAL", "retry": AT_ONCE, **settings}
        opened.append(kind(settings=NexusSettings(**settings)))
        return opened[-1]

    yield make
    for board in opened:
        board.close()


@pytest.fixture
def nexus(make_nexus: MakeNexus) -> TaskNexus:
    """An empty board whose tasks are tried three times, without waiting."""
    return make_nexus()


@pytest.fixture
def handles() -> Iterator[Handles]:
    """Registers handlers for the time of the test."""
    with ExitStack() as stack:
        yield lambda task_type, function: stack.enter_context(registered(task_type, function))


def claimed(nexus: TaskNexus, *, lease_seconds: float | None = None, by: str = "Agent-1", **fields: Any) -> Claim:
    """A new task in the hands of an agent."""
    task = nexus.add_task(NewTask(**{"task_id": "EP07-T3", "task_type": "summarise", **fields}))
    return nexus.claim_task(task.task_id, by, lease_seconds=lease_seconds)


async def until(fact: Callable[[], object], seconds: float = 30) -> None:
    """Waits for what only a look at the board can tell."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(fact):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        await asyncio.sleep(0.02)


@pytest.fixture(scope="session")
def prefect_api(prefect_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Prefect server for all tests of flows; its address. Tuned as ours are, so that it keeps up."""
    from prefect import settings
    from prefect.testing.utilities import prefect_test_harness

    from deployments.server_settings import server_environment

    ours = server_environment(NexusSettings(), "").items()
    tuned = {getattr(settings, name): value for name, value in ours if name.startswith("PREFECT_SERVER_SERVICES_")}
    folder = tmp_path_factory.mktemp("prefect")
    shutil.copy(prefect_template, folder / "prefect-test.db")  # as the harness calls it
    with ExitStack() as stack:
        stack.enter_context(settings.temporary_settings(updates=tuned))
        with patch("prefect.testing.utilities.mkdtemp", lambda: str(folder)):
            stack.enter_context(prefect_test_harness(server_startup_timeout=180))
        yield str(settings.get_current_settings().api.url)


async def flow_run_of(state: Any) -> Any:
    """The flow run, as Prefect's API shows it."""
    from prefect import get_client

    async with get_client() as client:
        return await client.read_flow_run(state.state_details.flow_run_id)


async def task_runs_of(state: Any, expected: int) -> dict[str, Any]:
    """The task runs of a flow run by name, waited for: the server writes them down a moment later."""
    from prefect import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    flow_run = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    deadline = time.monotonic() + 60
    async with get_client() as client:
        while True:
            found = await client.read_task_runs(flow_run_filter=flow_run)
            if len(found) >= expected and all(run.state is not None and run.state.is_final() for run in found):
                return {run.name: run for run in found}
            assert time.monotonic() < deadline, f"{expected} task runs: {[(r.name, r.state_name) for r in found]}"
            await asyncio.sleep(0.2)


async def until_the_server_knows_its_task_run() -> None:
    """Waits, in a handler, until the server has written down a task run of the flow run around it."""
    from prefect import get_client, runtime
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    flow_run = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(str(runtime.flow_run.id))]))
    deadline = time.monotonic() + 30
    async with get_client() as client:
        while True:
            if await client.read_task_runs(flow_run_filter=flow_run):
                return
            assert time.monotonic() < deadline, "the server does not know of it"
            await asyncio.sleep(0.02)


async def task_run_that_says(words: str, name: str) -> Any:
    """The newest task run of this name whose state says so, waited for; other tests leave theirs on the same server."""
    from prefect import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterName
    from prefect.client.schemas.sorting import TaskRunSort

    named = TaskRunFilter(name=TaskRunFilterName(any_=[name]))

    deadline = time.monotonic() + 30
    async with get_client() as client:
        while True:
            for run in await client.read_task_runs(task_run_filter=named, sort=TaskRunSort.EXPECTED_START_TIME_DESC):
                if run.state is not None and words in (run.state.message or ""):
                    return run
            assert time.monotonic() < deadline, f"no run {name!r} said {words!r}"
            await asyncio.sleep(0.2)


async def artifact_of(state: Any, key: str) -> Any:
    """The artifact that a flow run left under `key`."""
    from prefect import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey

    chosen = ArtifactFilter(
        key=ArtifactFilterKey(any_=[key]),
        flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id]),
    )
    async with get_client() as client:
        found = await client.read_artifacts(artifact_filter=chosen)
    return found[0] if found else None
