"""`nexus watch`: a terminal gets a picture, a pipe and a dumb terminal a line a move, and all of them the truth."""

import io
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nexus import NexusSettings, TaskNexus
from nexus.cli.live import Follower
from nexus.cli.sight import draw, look
from nexus.errors import DatabaseUnavailable

from ..conftest import Clock
from .conftest import Said
from .process import NEXUS, environment, nexus, on_a_terminal


@pytest.fixture
def told(elsewhere: Path, clock: Clock) -> Any:
    """A board with a clock that a story can move."""
    with TaskNexus(settings=NexusSettings(), clock=clock) as board:
        yield board


def drawn(board: TaskNexus, follower: Follower, columns: int = 80, rows: int = 24) -> list[str]:
    screen = Console(file=io.StringIO(), width=columns, force_terminal=True, color_system=None)
    screen.print(draw(follower.look(), rows))
    lines = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= columns
    assert len(lines) <= rows
    return [" ".join(line.split()) for line in lines]


def test_it_shows_who_works_on_what_and_for_how_long(told: TaskNexus, clock: Clock) -> None:
    follower = Follower(told, None)
    told.add_tasks([{"task_id": f"T{n}", "retry_policy": {"max_attempts": 1}} for n in range(6)])
    first, second = told.claim("Ada", 2, start=True)
    told.claim_task("T5", "Bo")
    told.register_agent("Cy")
    clock.advance(20)
    told.heartbeat(first, "half way")
    told.fail(second, "no such file")
    clock.advance(10)
    lines = drawn(told, follower)
    assert lines[0].startswith("12:00:30 UTC never swept")
    assert lines[1] == "3 pending 1 claimed 1 in_progress 1 failed"
    assert "Ada T0 · attempt 1 · half way 30 s 10 s" in lines
    assert "Bo T5 · claimed" in lines
    assert any(line.startswith("12:00:20 T1 failed Ada 1 of 1 attempts are spent") for line in lines)
    assert any(line.startswith("12:00:00 T0 in_progress Ada attempt 1") for line in lines)


def test_it_shows_what_is_stuck_and_why(told: TaskNexus, clock: Clock) -> None:
    told.add_task({"task_id": "T1", "required_capabilities": ["gpu"]})
    told.pause("deploy", "freeze")
    clock.advance(2 * 3600)
    told.sweep()
    clock.advance(60)
    lines = drawn(told, Follower(told, None))
    assert lines[0].startswith("14:01:00 UTC swept 1 min ago")
    assert "nobody works now" in lines
    assert "paused: deploy" in lines
    assert "1 stalled; the oldest:" in lines
    assert any(line.startswith("T1 waiting 2 h 1 min (log_only): ") for line in lines)


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (60, 12), (200, 50)])
def test_a_crowd_fits_the_terminal(told: TaskNexus, columns: int, rows: int) -> None:
    follower = Follower(told, None)
    told.add_tasks([{"task_id": f"{'a very long id ' * 9}{n}", "description": "x" * 300} for n in range(100)])
    told.claim(f"Agent {'with a long name ' * 9}", 60, start=True)
    lines = drawn(told, follower, columns, rows)
    assert any("more" in line for line in lines)


def test_it_looks_at_one_episode_only(told: TaskNexus) -> None:
    follower = Follower(told, "E")
    told.add_task({"task_id": "mine", "episode_id": "E"})
    told.add_task({"task_id": "other"})
    lines = "\n".join(drawn(told, follower))
    assert "1 pending" in lines
    assert "mine" in lines
    assert "other" not in lines


def test_while_nothing_moves_the_board_is_not_counted_again(told: TaskNexus, monkeypatch: pytest.MonkeyPatch) -> None:
    follower = Follower(told, None)
    told.add_task({"task_id": "T1"})
    asked: list[object] = []
    count = told.stats
    monkeypatch.setattr(told, "stats", lambda episode: asked.append(episode) or count(episode))
    for _ in range(5):
        follower.look()
    assert asked == [None]
    told.claim_task("T1", "Ada")
    assert follower.look().counts == {"claimed": 1}
    assert asked == [None, None]


def test_a_database_that_goes_away_is_waited_for(told: TaskNexus, monkeypatch: pytest.MonkeyPatch) -> None:
    told.add_task({"task_id": "T1"})
    follower = Follower(told, None)
    follower.look()

    def away(*_: object) -> None:
        raise DatabaseUnavailable("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(follower.feed, "read", away)
        assert follower.look().trouble == "the database is away"
        assert follower.look().counts == {"pending": 1}
        told.claim_task("T1", "Ada")
    assert follower.look().trouble == ""
    assert follower.look().counts == {"claimed": 1}


def test_foreign_text_does_not_speak_to_the_terminal(told: TaskNexus) -> None:
    follower = Follower(told, None)
    told.add_task({"task_id": "T\u202e1", "retry_policy": {"max_attempts": 1}})
    told.fail(told.claim("A\u202eda", 1, start=True)[0], "[red]not markup[/red] \x1b]0;title\x07")
    lines = "\n".join(drawn(told, follower, columns=200))
    assert not {"\x1b", "\u202e", "\x07"} & set(lines)
    assert "[red]not markup[/red]" in lines


def test_a_terminal_gets_a_picture_until_ctrl_c(board: TaskNexus) -> None:
    board.add_task({"task_id": "T1"})
    board.claim("Ada", 1, start=True)
    code, shown = on_a_terminal("watch", "--interval", "0.2", until="T1")
    assert code == 0
    assert "\x1b[?1049h" in shown
    assert shown.rstrip().endswith("\x1b[?25h\x1b[?1049l"), "the cursor and what stood there before are back"
    assert "Traceback" not in shown


def test_no_colour_is_honoured(board: TaskNexus) -> None:
    board.add_task({"task_id": "T1"})
    board.claim("Ada", 1, start=True)
    assert "\x1b[36m" in on_a_terminal("watch", "--once")[1]
    assert "\x1b[36m" not in on_a_terminal("watch", "--once", NO_COLOR="1")[1]


def test_a_dumb_terminal_gets_lines(board: TaskNexus) -> None:
    board.add_task({"task_id": "T1"})
    code, shown = on_a_terminal("watch", until="T1", TERM="dumb")
    assert code == 0
    assert "\x1b" not in shown
    assert shown.splitlines()[0].endswith("T1  add  - -> pending")


def test_a_pipe_gets_a_line_a_move(board: TaskNexus) -> None:
    board.add_task({"task_id": "T1"})
    board.complete(board.claim("Ada", 1, start=True)[0])
    with subprocess.Popen([*NEXUS, "watch"], env=environment(), stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        lines = [watching.stdout.readline() for _ in range(4)]
        watching.send_signal(signal.SIGINT)
    assert watching.returncode == 0
    assert [line.rstrip().split("  ", 1)[1] for line in lines] == [
        "T1  add  - -> pending",
        "T1  claim  pending -> claimed  Ada",
        "T1  start  claimed -> in_progress  Ada  attempt 1",
        "T1  complete  in_progress -> completed  Ada  attempt 1",
    ]


def test_once_is_the_picture_on_a_pipe_too(board: TaskNexus) -> None:
    board.add_task({"task_id": "T1"})
    board.claim("Ada", 1, start=True)
    shown = nexus("watch", "--once").stdout.decode()
    assert "1 in_progress" in shown
    board.add_tasks({"task_id": f"long-{'x' * 60}-{n}"} for n in range(60))
    board.claim("Bo", 60, start=True)
    shown = nexus("watch", "--once").stdout.decode()
    assert all(f"long-{'x' * 60}-{n}" in shown for n in range(60)), "a pipe gets all of it"
    assert "\x1b" not in shown


def test_json_is_a_document_a_line(done: Callable[..., Said], board: TaskNexus) -> None:
    board.add_task({"task_id": "T\u202e1", "tags": ["a"]})
    [line] = done("watch", "--once", "--json").out.splitlines()
    assert "\u202e" not in line
    assert json.loads(line)["task_id"] == "T\u202e1"


def test_an_interval_of_nothing_is_wrong_usage(refused: Callable[..., str]) -> None:
    assert "0.2" in refused("watch", "--interval", "0", code=2)


def test_a_look_is_a_handful_of_queries(told: TaskNexus) -> None:
    told.add_tasks({"task_id": f"T{n}"} for n in range(50))
    told.claim("Ada", 50, start=True)
    assert len(look(told, None, ()).attempts) == 50
