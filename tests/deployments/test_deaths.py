"""A runner's death, however it comes: what it ran is closed in Prefect, and nothing else. With a real server."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from deployments import reap
from deployments.prefect_server import Api
from deployments.processes import spawn
from deployments.runner_process import RunnerProcess
from deployments.service import _Service
from deployments.stopping import Stop
from nexus import NexusSettings

from .live import wait_until

pytestmark = pytest.mark.usefixtures("speaks_to")


class Runner:
    """A runner, as the service sees it."""

    def __init__(self, *runs: UUID, lives: bool = True) -> None:
        self.held, self.lives, self.buried, self.asked = {str(run) for run in runs}, lives, False, False

    def alive(self) -> bool:
        return self.lives

    def registered(self) -> bool:
        return True

    def runs(self) -> set[str]:
        return self.held if self.lives else set()

    def drain(self) -> None:
        self.asked = True

    def close(self) -> None:
        pass

    def bury(self, _hurry: Callable[[], bool]) -> None:
        self.buried = True


class Server:
    """Our own, and it lives."""

    def alive(self) -> bool:
        return True


async def work() -> None: ...


def asked(question: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    async def ask() -> Any:
        from prefect import get_client

        async with get_client() as client:
            return await question(client)

    return asyncio.run(ask())


@pytest.fixture
def at_work() -> Callable[..., UUID]:
    """Makes a run of a deployment that Prefect believes to be under way."""
    from prefect import flow
    from prefect.states import Running

    def begin(state: Any = Running) -> UUID:
        async def make(client: Any) -> Any:
            number = await client.create_flow(flow(work, name="process-agent-tasks"))
            deployment = await client.create_deployment(number, "nexus", tags=["nexus"])
            return await client.create_flow_run_from_deployment(deployment, state=state(), tags=["nexus"])

        run: UUID = asked(make).id
        return run

    return begin


@pytest.fixture
def service(url: str, monkeypatch: pytest.MonkeyPatch) -> _Service:
    """A service that serves; a new runner has nothing to do yet."""
    server: Any = Server()
    service = _Service(NexusSettings(), Api(url, owned=True, server=server), Stop(), [].append)
    service.announced = True

    def start() -> None:
        service.runner = Runner()  # type: ignore[assignment]

    monkeypatch.setattr(service, "_start_runner", start)
    return service


def state_of(run: UUID) -> str:
    return str(asked(lambda client: client.read_flow_run(run)).state_type.value)


def test_a_runner_dies_while_its_predecessor_finishes(service: Any, at_work: Callable[..., UUID]) -> None:
    from prefect.states import Pending

    lost, going_on, submitted = at_work(), at_work(), at_work(Pending)
    dead, old = Runner(lost, lives=False), Runner(going_on)
    service.runner, service.draining = dead, [old]
    service._watch_runner()
    assert dead.buried
    assert (state_of(lost), state_of(going_on)) == ("CRASHED", "RUNNING")
    assert state_of(submitted) == "PENDING", "somebody who lives may be about to begin it"
    assert service.draining == [old]


def test_a_runner_dies_that_was_to_finish_its_runs(service: Any, at_work: Callable[..., UUID]) -> None:
    lost, new = at_work(), at_work()
    dead, living = Runner(lost, lives=False), Runner(new)
    service.runner, service.draining = living, [dead]
    service._watch_runner()
    assert dead.buried, "what it ran outlives it otherwise"
    assert (state_of(lost), state_of(new)) == ("CRASHED", "RUNNING")
    assert (service.runner, service.draining) == (living, [])


def test_a_runner_dies_while_prefect_does_not_answer(service: Any, at_work: Callable[..., UUID]) -> None:
    lost = at_work()
    dead = Runner(lost, lives=False)
    service.runner, service.missed = dead, 2
    service._watch_runner()
    assert state_of(lost) == "RUNNING", "nobody could be told"
    service._watch_api()
    service._watch_runner()
    assert (state_of(lost), dead.buried, service.missed) == ("CRASHED", True, 0)


def test_what_could_not_be_closed_is_closed_later(
    service: Any, at_work: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.states import Pending

    lost, submitted = at_work(), at_work(Pending)

    async def busy(*_: Any, **__: Any) -> Any:
        raise TimeoutError("busy")

    service.runner = Runner(lost, lives=False)
    with monkeypatch.context() as patch:
        patch.setattr(reap, "close_abandoned", busy)
        service._watch_runner()
    # A new runner serves already; what it has begun meanwhile is not the dead one's.
    later, about_to_begin = at_work(), at_work(Pending)
    assert (state_of(lost), state_of(submitted)) == ("RUNNING", "PENDING")
    service._check()
    assert (state_of(lost), state_of(submitted)) == ("CRASHED", "CRASHED")
    assert (state_of(later), state_of(about_to_begin)) == ("RUNNING", "PENDING")


def test_the_runs_of_a_runner_are_those_that_live_in_its_group(tmp_path: Path) -> None:
    run = (
        "import os, subprocess, sys, time\n"
        "env = {**os.environ, 'PREFECT__FLOW_RUN_ID': 'the run'}\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], env=env)\n"
        "time.sleep(60)\n"
    )
    runner = object.__new__(RunnerProcess)
    runner.process = spawn([sys.executable, "-c", run], env=dict(os.environ), log=tmp_path / "log")
    wait_until(lambda: runner.runs() == {"the run"}, 10)
    runner.process.stop(5, group=True)
    runner.process.end_group(5)
    assert runner.runs() == set()
