"""`nexus stats`: the board in numbers, for people and as JSON."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest

from nexus import Figures, TaskNexus, TaskStatus
from nexus.cli.durations import brief

from .conftest import Said
from .process import on_a_terminal

LONG = "episode-07/chapter-003/a-section-with-a-long-name-3"


@pytest.fixture
def busy(board: TaskNexus) -> TaskNexus:
    """Two types, two agents: one task done, one failed, one at work, one that waits."""
    board.add_tasks(
        {"task_id": task_id, "task_type": task_type, "episode_id": "E", "retry_policy": {"max_attempts": 1}}
        for task_id, task_type in (("A", "draw"), ("B", "write"), ("C", "draw"), ("D", "draw"))
    )
    for task_id, agent in (("A", "Ada"), ("B", "Bo"), ("C", "Ada")):
        board.start(board.claim_task(task_id, agent))
    board.mark_task_completed("A")
    board.mark_task_failed("B", "no paper")
    return board


def rows(said: Said) -> list[list[list[str]]]:
    """The words of each table."""
    return [[line.split() for line in part.splitlines()] for part in said.out.split("\n\n")]


def test_for_people(done: Callable[..., Said], busy: TaskNexus) -> None:
    status, types, type_times, agents, agent_times = rows(done("stats"))
    assert status == [
        ["status", "tasks"], ["pending", "1"], ["in_progress", "1"], ["completed", "1"], ["failed", "1"],
        ["total", "4"],
    ]  # fmt: skip
    assert types == [
        ["type", "done", "completed", "failed", "running"],
        ["draw", "1", "1", "-", "1"],
        ["write", "-", "-", "1", "-"],
        ["all", "1", "1", "1", "1"],
    ]
    assert agents == [
        ["agent", "done", "completed", "failed", "running"],
        ["Ada", "1", "1", "-", "1"],
        ["Bo", "-", "-", "1", "-"],
    ]
    assert type_times[0] == ["type", "wait", "p50", "p95", "p99", "max", "run", "p50", "p95", "p99", "max"]
    assert [len(row) for row in type_times[1:]] == [9, 9, 9]
    assert [row[0] for row in agent_times[1:]] == ["Ada", "Bo"]


def test_as_one_document_with_the_statuses_on_top(done: Callable[..., Said], busy: TaskNexus) -> None:
    data = done("stats", "--json").data
    statuses = {str(status): data.pop(status) for status in TaskStatus}
    assert {name: number for name, number in statuses.items() if number} == {
        "pending": 1, "in_progress": 1, "completed": 1, "failed": 1,
    }  # fmt: skip
    figures = Figures.model_validate({**data, "status": statuses})
    assert figures.by_type["draw"].run.count == 1
    assert figures.since is not None
    assert (figures.until - figures.since).total_seconds() == pytest.approx(86_400, abs=60)
    assert done("stats", "--since", "all", "--json").data["since"] is None


def test_of_an_episode(done: Callable[..., Said], busy: TaskNexus) -> None:
    busy.add_task({"task_id": "elsewhere"})
    assert done("stats", "--episode", "E", "--json").data["pending"] == 1
    said = done("stats", "--episode", "nobody", "--since", "all")
    assert rows(said) == [[["status", "tasks"], ["total", "0"]]]
    assert said.line == "No attempt ended at any time."


@pytest.mark.parametrize("age", ["yesterday", "", "-3h", "24", "200y", "101w0", "9999999d", "60000d"])
def test_an_age_that_is_none(refused: Callable[..., str], board: TaskNexus, age: str) -> None:
    line = refused("stats", f"--since={age}", code=2)
    assert "--since" in line


def test_durations_are_short() -> None:
    given = (None, 0, 0.25, 0.9999, 1.5, 59.97, 60, 720, 3600, 172_000, 172_800, 3e6)
    assert [brief(one) for one in given] == [
        *("", "0ms", "250ms", "1.0s", "1.5s", "1.0m", "1.0m", "12.0m", "1.0h", "47.8h", "2.0d", "34.7d"),
    ]  # fmt: skip


# -- eighty columns -----------------------------------------------------------------------------------------


@pytest.fixture
def long(board: TaskNexus) -> None:
    """Ids, a type, an agent and an error as people really have them."""
    agent, said = "Agent-2-on-a-host-with-a-long-name.example.org", "no page at https://example.org/" + "far/" * 30
    for number in (3, 4):
        task_id = LONG.replace("3", str(number))
        board.add_task(
            {"task_id": task_id, "task_type": "a-type-whose-name-tells-a-story", "description": "words " * 20,
             "priority": 123_456, "retry_policy": {"max_attempts": 1}}
        )  # fmt: skip
        board.start(board.claim_task(task_id, agent))
        board.mark_task_failed(task_id, f"{said}end of {number}")
    board.register_agent(agent, ["gpu", "paint", "a-capability-with-a-long-name", "browser"])
    board.close()


@pytest.mark.parametrize("words", [["list"], ["show", LONG], ["history", LONG], ["agents", "list"], ["stats"]])
def test_what_is_long_can_be_read_on_eighty_columns(long: None, words: list[str]) -> None:
    code, shown = on_a_terminal(*words, columns=80, TERM="dumb")
    assert code == 0
    assert "\x1b" not in shown, "a dumb terminal gets no colour"
    assert max(map(len, shown.splitlines())) <= 80
    together = "".join(shown.split())
    if words[0] == "list":
        assert {"name-3", "name-4"} <= {line.split()[0][-6:] for line in shown.splitlines()[1:]}, (
            "ids can be told apart"
        )
        assert together.count("failed123456") == 2, "no number is cut"
    elif words[0] in ("show", "history"):
        assert "endof3" in pieces(shown), "the error is there to its end"
    elif words[0] == "agents":
        assert "a-capability-with-a-long-name" in pieces(shown, column=1)
    else:
        [counts, _] = [line.split() for line in shown.splitlines() if line.startswith("a-type-")]
        assert counts[1:] == ["-", "2"], "no number is cut"
        assert "…" in shown
        assert ".example.org" in shown


def test_stalls_on_eighty_columns(board: TaskNexus) -> None:
    for number in (3, 4):
        board.add_task({"task_id": LONG.replace("3", str(number))})
    later = board.now() + timedelta(hours=2)
    board.sweep(now=later)
    why = board.stalls()[0].why
    board.close()
    code, shown = on_a_terminal("stalls", columns=80, TERM="dumb")
    head, *lines = shown.splitlines()
    assert code == 0
    assert "next step" not in head, "nothing is to come: the reasons have its place"
    assert max(map(len, shown.splitlines())) <= 80
    assert [line.split()[0][-6:] for line in lines] == ["name-3", "name-4"]
    assert all(re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines), "a time is whole"
    assert all(f"log_only  {why[:9]}" in line for line in lines)


def pieces(shown: str, column: int = -1) -> str:
    """What a column says that goes on below; what stands below others is set in by blanks."""
    parts = [[part for part in line.split("  ") if part.strip()] for line in shown.splitlines()]
    return "".join("".join(line[column if len(line) > 2 else -1].split()) for line in parts if line)
