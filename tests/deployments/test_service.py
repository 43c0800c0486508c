"""`nexus up` as a user has it: a process in a terminal. Real servers, real runs, real signals."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.ports import free_port
from deployments.prefect_server import healthy
from deployments.runner_process import runner_environment
from nexus.settings import NexusSettings

from .live import Command, ask, clean_environment, end_processes_of, processes_of, wait_until

UP = """
import sys
from deployments.service import up
from nexus.errors import NexusError
from nexus.settings import NexusSettings
try:
    up(NexusSettings.load(), say=lambda line: print(line, flush=True))
except NexusError as error:
    print(type(error).__name__, error)
    sys.exit(1)
"""

FLOWS = '''
import asyncio, os
from pathlib import Path
from prefect import flow, task

@flow(name="execute-task")
async def execute_task(task_id: str, agent_id: str = "prefect") -> bool:
    return True

@task
async def work(seconds: float) -> None:
    await asyncio.sleep(seconds)

@flow(name="process-agent-tasks", flow_run_name="shift {agent_id}")
async def process_agent_tasks(agent_id: str, seconds: float = 0) -> None:
    """One agent's shift."""
    try:
        await work(seconds)
    finally:
        Path(os.environ["NEXUS_HOME"], f"{agent_id} has left").touch()

@flow(name="sweep-stalled-tasks")
async def sweep_stalled_tasks() -> None: ...
'''

SHIFT = "process-agent-tasks/nexus"
SWEEP = "sweep-stalled-tasks/nexus"


class Board:
    """One home, and what its Prefect knows."""

    def __init__(self, directory: Path, start: Callable[..., Command]) -> None:
        self.directory, self.home, self._start = directory, directory / "board", start
        self.port = free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.env = clean_environment(
            directory,
            NEXUS_SERVICE__PORT=str(self.port),
            NEXUS_MONITORING__CHECK_INTERVAL_SECONDS="4",
            NEXUS_MONITORING__PENDING_TIMEOUT_SECONDS="3600",
        )
        (directory / "flows").mkdir()
        (directory / "flows" / "__init__.py").write_text(FLOWS)
        self.env["PYTHONPATH"] = f"{directory}:{self.env['PYTHONPATH']}"

    def up(self, **env: str) -> Command:
        return self._start(UP, env={**self.env, **env}, cwd=self.directory)

    def start_shift(self, agent: str, seconds: float, url: str = "") -> None:
        """As a user does from another terminal."""
        command = ["deployment", "run", SHIFT, "-p", f"agent_id={agent}", "-p", f"seconds={seconds}"]
        done = subprocess.run(
            [sys.executable, "-P", "-m", "prefect", *command],
            env={**self.env, "PREFECT_API_URL": url or self.url},
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def runs(self, url: str = "", **filters: Any) -> list[dict[str, Any]]:
        body = {"flow_runs": filters, "limit": 200} if filters else {"limit": 200}
        found: list[dict[str, Any]] = ask(url or self.url, "/flow_runs/filter", body)
        return found

    def state_of(self, name: str, url: str = "") -> str:
        states = [run["state_type"] for run in self.runs(url, name={"any_": [name]})]
        return states[-1] if states else ""

    def sweeps(self, state: str = "COMPLETED") -> int:
        sweep = ask(self.url, f"/deployments/name/{SWEEP}")["id"]
        return len(self.runs(deployment_id={"any_": [sweep]}, state={"type": {"any_": [state]}}))

    def open_runs_on_disk(self) -> list[tuple[str, str]]:
        """What Prefect's database holds once its server is gone."""
        with sqlite3.connect(self.home / "prefect" / "prefect.db") as database:
            query = "select name, state_type from flow_run where state_type in ('RUNNING', 'PENDING', 'CANCELLING')"
            return database.execute(query).fetchall()

    def pid(self, of: str) -> int:
        return int(json.loads((self.home / f"{of}.json").read_text())["pid"])


@pytest.fixture
def board(tmp_path: Path, start: Callable[..., Command]) -> Iterator[Board]:
    yield Board(tmp_path, start)
    end_processes_of(tmp_path)


def test_a_day_with_nexus_up(board: Board) -> None:
    up = board.up()
    assert f"http://127.0.0.1:{board.port}" in up.says("Prefect UI")
    up.says("serving")

    # The three deployments, and a form made of the flow's typed parameters.
    found = {one["name"]: one for one in ask(board.url, "/deployments/filter", {})}
    assert list(found) == ["nexus"]
    shift = ask(board.url, f"/deployments/name/{SHIFT}")
    assert shift["tags"] == ["nexus"]
    assert shift["parameter_openapi_schema"]["properties"]["agent_id"]["type"] == "string"
    assert shift["parameter_openapi_schema"]["required"] == ["agent_id"]
    assert ask(board.url, "/deployments/name/execute-task/nexus")["enforce_parameter_schema"] is True
    sweep = ask(board.url, f"/deployments/name/{SWEEP}")
    assert sweep["schedules"][0]["schedule"]["interval"] == 4
    assert sweep["global_concurrency_limit"]["limit"] == 1
    assert sweep["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"

    # The schedule fires (on SQLAlchemy 2.1 it would not), and says so.
    up.says("sweeping every 4 s")
    wait_until(lambda: board.sweeps() >= 2)

    # A shift that somebody starts runs.
    board.start_shift("Agent-2", 0)
    wait_until(lambda: board.state_of("shift Agent-2") == "COMPLETED")

    # There is one `up` to a home.
    second = board.up()
    assert second.ended() == 1
    assert "AlreadyUp" in second.lines[-1]

    # Ctrl-C while a shift is at work: it hands back, its run is closed, nothing stays behind.
    board.start_shift("Agent-3", 300)
    wait_until(lambda: board.state_of("shift Agent-3") == "RUNNING")
    up.signal(signal.SIGINT)
    assert up.ended() == 0, up.lines
    assert (board.home / "Agent-3 has left").exists()
    assert processes_of(board.directory) == {}
    assert board.open_runs_on_disk() == []

    # The next day begins afresh: schedules fire again. SIGTERM ends it as well.
    again = board.up()
    again.says("serving")
    assert board.state_of("shift Agent-3") == "CRASHED"
    before = board.sweeps()
    wait_until(lambda: board.sweeps() > before)
    again.signal(signal.SIGTERM)
    assert again.ended() == 0, again.lines
    assert processes_of(board.directory) == {}
    assert board.open_runs_on_disk() == []


def test_what_dies_is_started_again(board: Board) -> None:
    up = board.up()
    up.says("sweeping every")
    board.start_shift("Agent-1", 300)
    wait_until(lambda: board.state_of("shift Agent-1") == "RUNNING")

    # The runner is killed: its runs are closed, another serves.
    runner = board.pid("runner")
    os.kill(runner, signal.SIGKILL)
    up.says("the runner died")
    wait_until(lambda: board.state_of("shift Agent-1") == "CRASHED")
    before = board.sweeps()
    wait_until(lambda: board.sweeps() > before)
    assert board.pid("runner") != runner

    # The server is killed: it comes back, the shift at work goes on, a new runner serves.
    board.start_shift("Agent-2", 300)
    wait_until(lambda: board.state_of("shift Agent-2") == "RUNNING")
    server, runner = board.pid("server"), board.pid("runner")
    os.kill(server, signal.SIGKILL)
    up.says("the Prefect server died")
    up.says("a new runner takes over")
    assert board.pid("server") != server
    wait_until(lambda: board.pid("runner") != runner)
    before = board.sweeps()
    wait_until(lambda: board.sweeps() > before)
    assert board.state_of("shift Agent-2") == "RUNNING"
    assert not (board.home / "Agent-2 has left").exists()

    # `up` itself is killed: the runner follows it, the server stays, the next `up` makes one house of it.
    server = board.pid("server")
    up.signal(signal.SIGKILL)
    up.ended()
    again = board.up()
    again.says("sweeping every")
    assert board.pid("server") == server
    assert (board.home / "Agent-2 has left").exists()
    assert board.state_of("shift Agent-2") == "CRASHED"
    before = board.sweeps()
    wait_until(lambda: board.sweeps() > before)
    again.signal(signal.SIGINT)
    again.signal(signal.SIGINT)
    assert again.ended() == 0, again.lines
    assert processes_of(board.directory) == {}
    assert board.open_runs_on_disk() == []


def test_flows_that_cannot_be_imported_are_an_error(board: Board) -> None:
    (board.directory / "flows" / "__init__.py").write_text("raise RuntimeError('no such luck')")
    up = board.up()
    assert up.ended() == 1
    assert "RunnerFailed" in up.lines[-1]
    assert "no such luck" in up.lines[-1]
    assert processes_of(board.directory) == {}
    assert not healthy(board.url)


def test_the_settings_reach_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEXUS_MONITORING__PENDING_TIMEOUT_SECONDS", "60")
    monkeypatch.setenv("NEXUS_LEASE_SECONDS", "30")
    settings = NexusSettings.load(
        home="board",
        lease_seconds=20,
        auto_upgrade=False,
        service={"port": 4300},
        http={"allowed_hosts": ["*.example.org"]},
    )
    env = runner_environment(settings)
    for name in [name for name in os.environ if name.startswith("NEXUS_")]:
        monkeypatch.delenv(name)
    for name, value in env.items():
        if name.startswith("NEXUS_"):
            monkeypatch.setenv(name, value)
    monkeypatch.chdir("/")
    assert NexusSettings.load() == settings.model_copy(update={"home": tmp_path / "board"})
