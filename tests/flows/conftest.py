"""What the stories about flows share: a board with a real clock, handlers for the time of a test, Prefect's server."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

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
def prefect_api() -> Iterator[str]:
    """One Prefect server for all tests of flows; its address. Tuned as ours are, so that it keeps up."""
    from prefect import settings
    from prefect.testing.utilities import prefect_test_harness

    from deployments.server_settings import server_environment

    ours = server_environment(NexusSettings(), "").items()
    tuned = {getattr(settings, name): value for name, value in ours if name.startswith("PREFECT_SERVER_SERVICES_")}
    with settings.temporary_settings(updates=tuned), prefect_test_harness(server_startup_timeout=180):
        yield str(settings.get_current_settings().api.url)
