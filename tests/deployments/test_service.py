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

from deployments.errors import RunnerFailed
from deployments.ports import free_port
from deployments.runner_process import RunnerProcess, runner_environment
from nexus import NewTask, NexusSettings, TaskNexus

from .live import Command, ask, clean_environment, end_processes_of, processes_of, wait_until

UP = "from deployments.cli import main; main()"

SHIFT = "process-agent-tasks/nexus"
SWEEP = "sweep-stalled-tasks/nexus"
PRUNE = "prune-finished-tasks/nexus"
INTERVAL = 5


class Board:
    """One home, and what its Prefect knows."""

    def __init__(self, directory: Path, start: Callable[..., Command]) -> None:
        self.directory, self.home, self._start = directory, directory / "board", start
        self.port = free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.env = clean_environment(
            directory,
            NEXUS_SERVICE__PORT=str(self.port),
            NEXUS_MONITORING__CHECK_INTERVAL_SECONDS=str(INTERVAL),
            NEXUS_COMMAND__ALLOWED_PROGRAMS='["sleep"]',
        )

    def up(self, **env: str) -> Command:
        return self._start(UP, "up", env={**self.env, **env}, cwd=self.directory)

    def add(self, task_id: str, seconds: int) -> None:
        """A task that takes its time."""
        with TaskNexus(f"sqlite:///{self.home / 'nexus.db'}") as nexus:
            argv = ["sleep", str(seconds)]
            nexus.add_task(NewTask(task_id=task_id, task_type="command", payload={"argv": argv}))

    def status_of(self, task_id: str) -> str:
        with TaskNexus(f"sqlite:///{self.home / 'nexus.db'}") as nexus:
            task = nexus.get_task_by_id(task_id)
            return task.status if task else ""

    def start_shift(self, agent: str) -> None:
        """As the UI's form does."""
        deployment = ask(self.url, f"/deployments/name/{SHIFT}")["id"]
        ask(self.url, f"/deployments/{deployment}/create_flow_run", {"parameters": {"agent_id": agent}})

    def start_shift_from_a_terminal(self, agent: str) -> None:
        command = ["deployment", "run", SHIFT, "-p", f"agent_id={agent}"]
        done = subprocess.run(
            [sys.executable, "-P", "-m", "prefect", *command],
            env={**self.env, "PREFECT_API_URL": self.url},
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def runs(self, **filters: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ask(self.url, "/flow_runs/filter", {"flow_runs": filters, "limit": 200})
        return found

    def events_of(self, task_id: str) -> list[str]:
        """What Prefect was told of a task, in order."""
        wanted = {"event": {"prefix": ["nexus.task."]}, "resource": {"id": [f"nexus.task.{task_id}"]}, "order": "ASC"}
        found = ask(self.url, "/events/filter", {"filter": wanted, "limit": 50})["events"]
        return [one["event"].removeprefix("nexus.task.") for one in found]

    def state_of(self, name: str) -> str:
        states = [run["state_type"] for run in self.runs(name={"any_": [name]})]
        return states[-1] if states else ""

    def sweeps(self) -> int:
        """How many are completed."""
        sweep = ask(self.url, f"/deployments/name/{SWEEP}")["id"]
        return len(self.runs(deployment_id={"any_": [sweep]}, state={"type": {"any_": ["COMPLETED"]}}))

    def has_page(self) -> bool:
        """Whether the page about the board is there."""
        return bool(ask(self.url, "/artifacts/filter", {"artifacts": {"key": {"any_": ["nexus-board"]}}}))

    def next_sweep(self) -> None:
        """Waits for one more."""
        before = self.sweeps()
        wait_until(lambda: self.sweeps() > before)

    def state_of_attempt(self, name: str) -> tuple[str, str]:
        """How the run of an attempt ended, and why."""
        wanted = {"task_runs": {"name": {"any_": [name]}}}
        (run,) = ask(self.url, "/task_runs/filter", wanted)
        return run["state_type"], run["state"]["message"]

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


def test_three_days_with_nexus_up(board: Board) -> None:
    # Day one: it starts, says where it is, and serves.
    up = board.up()
    assert f"http://127.0.0.1:{board.port}" in up.says("Prefect UI")
    up.says("serving")
    assert f"http://127.0.0.1:{board.port}/v2/artifacts/key/nexus-board" in up.says("the board, every 120 s")

    # The address leads somewhere at once, long before the schedule comes to it.
    wait_until(board.has_page, 30)

    # The five deployments, and a form made of the flow's typed parameters.
    assert {one["name"] for one in ask(board.url, "/deployments/filter", {})} == {"nexus"}
    shift = ask(board.url, f"/deployments/name/{SHIFT}")
    assert shift["tags"] == ["nexus"]
    assert shift["parameter_openapi_schema"]["properties"]["agent_id"]["type"] == "string"
    assert shift["parameter_openapi_schema"]["required"] == ["agent_id"]
    assert ask(board.url, "/deployments/name/execute-task/nexus")["enforce_parameter_schema"] is True
    sweep = ask(board.url, f"/deployments/name/{SWEEP}")
    assert sweep["schedules"][0]["schedule"]["interval"] == INTERVAL
    assert sweep["global_concurrency_limit"]["limit"] == 1
    assert sweep["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"

    prune = ask(board.url, f"/deployments/name/{PRUNE}")
    assert prune["schedules"] == [], "everything is kept, until somebody says so"
    assert prune["parameter_openapi_schema"]["properties"].keys() == {"retention", "dry_run"}

    # The schedule fires (on SQLAlchemy 2.1 it would not), and says so.
    up.says(f"sweeping every {INTERVAL} s")
    wait_until(board.sweeps)

    # A shift that somebody starts works what there is.
    board.add("T-1", 0)
    board.start_shift_from_a_terminal("Agent-2")
    wait_until(lambda: board.state_of("Agent-2 · shift") == "COMPLETED")
    assert board.status_of("T-1") == "completed"

    # Prefect hears of every move, whoever makes it: an agent outside, who knows nothing of Prefect, is told of too.
    board.add("T-1b", 0)
    with TaskNexus(f"sqlite:///{board.home / 'nexus.db'}") as nexus:
        claim = nexus.claim_task("T-1b", "Claude")
        nexus.start(claim)
        nexus.complete(claim, "by hand")
    wait_until(lambda: board.events_of("T-1b") == ["added", "claimed", "started", "completed"])
    assert board.events_of("T-1") == ["added", "claimed", "started", "completed"]

    # Pruning that somebody starts, from the form.
    parameters = {"retention": {"completed": {"keep": 0}, "grace_seconds": 0}}
    ask(board.url, f"/deployments/{prune['id']}/create_flow_run", {"parameters": parameters})
    wait_until(lambda: board.state_of("prune") == "COMPLETED")
    assert board.status_of("T-1") == ""

    # There is one `up` to a home.
    second = board.up()
    assert second.ended() == 1
    assert "runs already" in " ".join(second.lines)

    # Ctrl-C while a shift is at work: it hands back, its run is closed, nothing stays behind.
    board.add("T-2", 300)
    board.start_shift("Agent-3")
    wait_until(lambda: board.status_of("T-2") == "in_progress")
    up.signal(signal.SIGINT)
    assert up.ended() == 0, up.lines
    assert board.status_of("T-2") == "pending", "handed back, not left to its lease"
    assert processes_of(board.directory) == {}
    assert board.open_runs_on_disk() == []

    # Day two begins afresh, and the schedule that rested overnight fires again.
    up = board.up()
    up.says("sweeping every")
    assert board.state_of("Agent-3 · shift") == "CANCELLED", "an ordinary stop is no outage"
    attempt = board.state_of_attempt("T-2 · attempt 1 · Agent-3")
    assert attempt == ("CANCELLED", "handed back: its agent stopped")
    board.next_sweep()

    # The runner is killed: what it ran is ended and closed, another serves.
    board.start_shift("Agent-4")
    wait_until(lambda: board.status_of("T-2") == "in_progress")
    runner = board.pid("runner")
    os.kill(runner, signal.SIGKILL)
    up.says("the runner died")
    over = ("CRASHED", "CANCELLED")  # it may still have come to hand back in order
    wait_until(lambda: board.state_of("Agent-4 · shift") in over, what=lambda: f"{board.runs()[-3:]} {up.lines}")
    assert board.status_of("T-2") == "pending"

    # The server is killed: it comes back, the shift at work goes on, a new runner serves.
    board.start_shift("Agent-5")
    wait_until(lambda: board.status_of("T-2") == "in_progress")
    server, runner = board.pid("server"), board.pid("runner")
    os.kill(server, signal.SIGKILL)
    up.says("the Prefect server died")
    up.says("a new runner takes over")
    assert board.pid("server") != server
    wait_until(lambda: board.pid("runner") != runner)
    board.next_sweep()
    assert board.state_of("Agent-5 · shift") == "RUNNING"
    assert board.status_of("T-2") == "in_progress"

    # `up` itself is killed: the runners follow it, the server stays.
    server = board.pid("server")
    up.signal(signal.SIGKILL)
    up.ended()

    # Day three: the next `up` makes one house of it. SIGTERM ends it, as Ctrl-C does.
    up = board.up()
    up.says("sweeping every")
    assert board.pid("server") == server
    wait_until(lambda: board.status_of("T-2") == "pending")
    assert board.state_of("Agent-5 · shift") == "CANCELLED", "the runner ended its run in order"
    board.next_sweep()
    up.signal(signal.SIGTERM)
    assert up.ended() == 0, up.lines
    assert processes_of(board.directory) == {}
    assert board.open_runs_on_disk() == []


def test_a_runner_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "flows"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError('no such luck')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{clean_environment(tmp_path)['PYTHONPATH']}")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    runner = RunnerProcess(NexusSettings.load(home=tmp_path), pause_at_end=True)
    wait_until(lambda: not runner.alive())
    assert not runner.registered()
    assert "RuntimeError: no such luck" in str(RunnerFailed("ended", runner.log))
    runner.end(lambda: False)


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
