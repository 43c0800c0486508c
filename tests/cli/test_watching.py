"""The verbs that keep the board moving, on the command line."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nexus import NexusSettings, SweepReport, TaskNexus
from nexus.reports import Finding, Stall, WhatIf

from .conftest import Said
from .process import on_a_terminal

LONG_AGO = datetime.now(UTC) - timedelta(hours=2)


@pytest.fixture
def waiting(board: TaskNexus) -> str:
    """A task that has been waiting for two hours."""
    with TaskNexus(board.url, settings=NexusSettings(), clock=lambda: LONG_AGO) as then:
        return then.add_task({"task_id": "T1", "required_capabilities": ["gpu"]}).task_id


class TestSweep:
    def test_a_dry_run_does_nothing(self, done: Callable[..., Said], board: TaskNexus, waiting: str) -> None:
        said = done("sweep", "--dry-run", "--strategy", "mark_stalled")
        assert said.out.splitlines()[1].split()[:2] == ["T1", "mark_stalled"]
        assert said.line == "Looked at 1, would act 1 times; nothing was done."
        assert board.get_task_by_id("T1").status == "pending"
        assert board.sweeps() == board.stalls() == []
        assert SweepReport.model_validate(done("sweep", "--dry-run", "--json").data).dry_run

    def test_it_is_on_record(self, done: Callable[..., Said], board: TaskNexus, waiting: str) -> None:
        done("sweep")
        assert board.last_sweep().source == "command"

    def test_what_if(self, done: Callable[..., Said], board: TaskNexus, waiting: str) -> None:
        board.register_agent("Ada", ["gpu"])
        board.claim_task("T1", "Ada")
        said = done("sweep", "--what-if", "pending_timeout_seconds=1200")
        assert said.out.splitlines()[-1].split()[:4] == ["all", "1", "1", "1"]
        assert said.line.startswith("1 of 1 waits would have been flagged; 1 of these recovered by themselves")
        assert board.sweeps() == []
        found = WhatIf.model_validate(done("sweep", "--what-if", "pending_timeout_seconds=9000", "--json").data)
        assert (found.total.periods, found.total.flagged) == (1, 0)
        assert "no waiting" not in done("sweep", "--what-if", "adaptive.enabled=true").err

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ("pending=1", "the keys here are check_interval_seconds, pending_timeout_seconds"),
            ("pending_timeout_seconds", "is no KEY=VALUE"),
            ("pending_timeout_seconds=soon", "pending_timeout_seconds: Input should be a valid number"),
            ("pending_timeout_seconds=-1", "pending_timeout_seconds: Input should be greater than 0"),
            ("adaptive.speed=1", "the keys here are enabled, factor"),
            ("adaptation.factor=1", "there is no section 'adaptation'"),
            ('policies=[{"name":"a","steps":["fail","notify"]}]', "notify stands after fail"),
        ],
    )
    def test_a_wrong_what_if_names_its_key(
        self, refused: Callable[..., str], board: TaskNexus, change: str, says: str
    ) -> None:
        assert says in refused("sweep", "--what-if", change, code=2)


class TestStalls:
    def test_what_waits_too_long_and_why(self, done: Callable[..., Said], board: TaskNexus, waiting: str) -> None:
        assert done("stalls").line == "Nothing is stalled."
        done("sweep", "--strategy", "notify")
        head, row = done("stalls").out.splitlines()
        assert head.split()[0] == "task"
        assert row.startswith("T1")
        assert "no agent with the capability gpu" in row
        [stall] = [Stall.model_validate(one) for one in done("stalls", "T1", "--json").data]
        assert [step.step for step in stall.steps] == ["notify"]
        board.cancel("T1")
        assert done("stalls").line == "Nothing is stalled."
        assert "cancel" in done("stalls", "--all").out

    def test_of_a_task_that_does_not_exist(self, refused: Callable[..., str], board: TaskNexus) -> None:
        assert "There is no task 'T9'" in refused("stalls", "T9")

    def test_explain_shows_the_stall(self, done: Callable[..., Said], board: TaskNexus, waiting: str) -> None:
        done("sweep")
        lines = done("explain", "T1").out.splitlines()
        assert [line.partition(":")[0] for line in lines] == ["capability", "sweep", "stall"]
        assert "policy default, done: log_only" in lines[-1]

    def test_80_columns(self, board: TaskNexus, waiting: str) -> None:
        board.sweep()
        code, shown = on_a_terminal("stalls")
        assert code == 0
        plain = re.sub("\x1b\\[[0-9;]*m", "", shown)
        assert max(map(len, plain.splitlines())) <= 80


def test_pause_and_resume(
    done: Callable[..., Said], refused: Callable[..., str], board: TaskNexus, waiting: str
) -> None:
    assert done("pause", "deploy", "--reason", "freeze").line == (
        "Tasks of type 'deploy' are paused; `nexus resume deploy` goes on."
    )
    assert done("pause", "--by", "Olga").line == "The board is paused; `nexus resume` goes on."
    assert [pause.task_type for pause in board.pauses()] == ["*", "deploy"]
    assert done("resume").line == "Offered again."
    assert refused("resume") == "The board is not paused."
    assert refused("resume", "task") == "Tasks of type 'task' are not paused."
    assert done("resume", "deploy", "--json").data == []


class TestDoctor:
    def test_a_board_in_good_order(self, done: Callable[..., Said], board: TaskNexus) -> None:
        board.add_task({"task_id": "T1"})
        said = done("doctor", "--no-prefect")
        assert (said.out, said.line) == ("", "All is well.")

    def test_one_line_each_and_exit_code_1(
        self, command: Callable[..., Said], board: TaskNexus, waiting: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with board._database.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE nexus_tasks SET tags = 'nonsense'")
        said = command("doctor", PREFECT_API_URL="http://127.0.0.1:9/api")
        assert said.code == 1
        assert [line.partition(":")[0] for line in said.out.splitlines()] == ["sweep", "json", "prefect"]
        assert "http://127.0.0.1:9/api does not answer" in said.out
        found = [Finding.model_validate(one) for one in command("doctor", "--no-prefect", "--json").data]
        assert [one.code for one in found] == ["sweep", "json"]

    def test_no_server_at_all(self, command: Callable[..., Said], board: TaskNexus) -> None:
        assert "nexus up" in command("doctor").out

    def test_no_board_at_all(self, command: Callable[..., Said], elsewhere: Any) -> None:
        said = command("--database", "sqlite:///none.db", "doctor", "--no-prefect")
        assert (said.code, said.out.partition(":")[0]) == (1, "database")
        assert not (elsewhere / "none.db").exists()
