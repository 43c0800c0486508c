"""`nexus prune` and `nexus db compact`, on the command line."""

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nexus import NexusSettings, PruneReport, TaskNexus
from nexus.cli.prune import days

from .conftest import Said
from .process import on_a_terminal

LONG_AGO = datetime.now(UTC) - timedelta(days=40)


class FinalError(Exception):
    """A failure that no further attempt will mend."""

    retryable = False


@pytest.fixture
def ended(board: TaskNexus) -> TaskNexus:
    """Forty days ago three tasks were cancelled, one was completed, one became a dead letter."""
    with TaskNexus(board.url, settings=NexusSettings(), clock=lambda: LONG_AGO) as then:
        for task_id in then.add_tasks({"task_id": f"C{number}"} for number in range(3)):
            then.cancel(task_id)
        then.add_tasks([{"task_id": "good"}, {"task_id": "bad"}])
        for task_id in ("good", "bad"):
            claim = then.claim_task(task_id, "Ada")
            then.start(claim)
            then.complete(claim) if task_id == "good" else then.fail(claim, FinalError("no"))
    return board


def test_by_age(done: Callable[..., Said], ended: TaskNexus) -> None:
    assert done("prune", "--older-than", "41d").line == "Deleted no tasks."
    said = done("prune", "--older-than", "30d")
    assert said.line == "Deleted 1 completed, 3 cancelled (1 attempts, 3 rows of history)."
    assert said.out == ""
    assert ended.stats() == {"failed": 1}, "dead letters go only where they are named"
    assert "1 failed" in done("prune", "--older-than", "30d", "--status", "failed").line


def test_by_number(done: Callable[..., Said], ended: TaskNexus) -> None:
    assert "Deleted 2 cancelled" in done("prune", "--keep", "1").line
    assert ended.stats() == {"completed": 1, "failed": 1, "cancelled": 1}
    assert "Deleted 1 completed (" in done("prune", "--keep", "0", "--status", "completed").line


def test_a_dry_run_deletes_nothing(done: Callable[..., Said], ended: TaskNexus) -> None:
    assert "Would delete 1 completed, 3 cancelled" in done("prune", "--older-than", "30d", "--dry-run").line
    said = done("prune", "--older-than", "30d", "--dry-run", "--json")
    report = PruneReport.model_validate(said.data)
    assert (report.dry_run, report.tasks, said.err) == (True, 4, "")
    assert ended.stats().total() == 5


def test_what_the_settings_say(done: Callable[..., Said], ended: TaskNexus, elsewhere: Path) -> None:
    settings = "[retention]\ncompleted = {days = 30}\nfailed = {days = 30}\n"
    (elsewhere / "nexus.toml").write_text(settings)
    assert "1 completed (" in done("prune", "--status", "completed", "--dry-run").line
    assert "1 completed, 1 failed (" in done("prune").line
    assert done("prune", "--older-than", "50d").line == "Deleted no tasks.", "what is asked for counts, and only that"


def test_what_is_needed_is_counted(done: Callable[..., Said], ended: TaskNexus) -> None:
    ended.add_task({"task_id": "then", "depends_on": ["good"]})
    said = done("prune", "--older-than", "30d", "-s", "completed").line
    assert said == "Deleted no tasks. 1 stay, because something needs them that is not done yet."


def test_a_full_run_says_so(done: Callable[..., Said], ended: TaskNexus) -> None:
    said = done("prune", "--older-than", "30d", NEXUS_RETENTION__MAX_PER_RUN="2").line
    assert said.endswith("The run was full: prune again.")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "no task ever goes; say --older-than 30d or --keep 1000"),
        (("--status", "failed"), "no failed task ever goes"),
        (("--older-than", "30"), "'30' is no age"),
        (("--older-than", "soon"), "'soon' is no age"),
        (("--older-than", "5000w"), ""),
        (("--older-than", "90000d"), "more than a hundred years"),
        (("--status", "pending", "--keep", "1"), "'pending' is not one of 'completed', 'failed', 'cancelled'"),
        (("--keep", "-1"), "--keep"),
    ],
)
def test_wrong_usage(command: Callable[..., Said], ended: TaskNexus, words: tuple[str, ...], says: str) -> None:
    said = command("prune", *words)
    assert (said.code, said.out) == (2 if says else 0, "")
    assert says in said.line
    assert ended.stats().total() == 5


def test_ages() -> None:
    assert [days(text) for text in ("30d", "12h", "2w", "90m", "0s", "1.5 D")] == [30, 0.5, 14, 0.0625, 0, 1.5]


def test_a_bar_on_a_terminal_only(done: Callable[..., Said], ended: TaskNexus) -> None:
    code, shown = on_a_terminal("prune", "--older-than", "30d")
    assert code == 0
    assert "pruning" in shown
    assert "4/4" in shown
    assert "Deleted 1 completed, 3 cancelled" in shown
    assert "pruning" not in done("prune", "--older-than", "30d", "-s", "failed").err


class TestCompact:
    def test_an_old_file(self, done: Callable[..., Said], elsewhere: Path) -> None:
        with sqlite3.connect("old.db") as old:
            old.execute("PRAGMA journal_mode = WAL")
        with TaskNexus("sqlite:///old.db") as nexus:
            for task_id in nexus.add_tasks({"payload": {"text": "x" * 16_000}} for _ in range(100)):
                nexus.cancel(task_id)
        done("--database", "sqlite:///old.db", "prune", "--older-than", "0s")
        said = done("db", "compact", "--database", "sqlite:///old.db", "--json").data
        assert said["after"] < said["before"] / 4
        with sqlite3.connect("old.db") as now:
            assert now.execute("PRAGMA auto_vacuum").fetchone() == (2,)

    def test_what_is_not_there(self, refused: Callable[..., str], elsewhere: Path) -> None:
        assert "holds no nexus yet" in refused("db", "compact", "--database", "sqlite:///none.db")
        assert not (elsewhere / "none.db").exists()

    def test_a_server(self, refused: Callable[..., str], postgres_url: str) -> None:
        assert "looks after its own" in refused("db", "compact", "--database", postgres_url)
