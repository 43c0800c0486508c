"""What stands on a terminal, on a pipe, and on both where the text of a task is hostile."""

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from deployments.display import Display
from nexus import TaskNexus

from .conftest import Said
from .process import nexus, on_a_terminal, shell

HOSTILE = "\x1b[31mred\x1b]0;title\x07\x9b2J\nsecond\rline \u202ereversed\u202c end"
TAMED = "[31mred ]0;title 2J second line reversed end"


def escapes(text: str) -> list[str]:
    """What would move a terminal's cursor, or turn its text around."""
    return [char for char in text if char != "\n" and not char.isprintable()]


@pytest.fixture
def hostile(done: Callable[..., Said], board: TaskNexus) -> str:
    """A task whose every text is hostile; its id."""
    task_id = "T\u202e1"
    board.add_task(
        {
            "task_id": task_id,
            "description": HOSTILE,
            "payload": {HOSTILE: HOSTILE},
            "tags": ["t\u202eag"],
            "extra": {"x": [HOSTILE]},
            "retry_policy": {"max_attempts": 1},
        },
        actor=HOSTILE,
    )
    claim = board.claim_task(task_id, "A\u202egent")
    board.start(claim)
    board.heartbeat(claim, HOSTILE)
    board.fail(claim, HOSTILE)
    return task_id


@pytest.mark.parametrize(
    "words", [["list"], ["show"], ["history"], ["explain"], ["agents", "list"], ["retry"], ["cancel"], ["claim"]]
)
def test_foreign_text_cannot_speak_to_the_terminal(
    command: Callable[..., Said], board: TaskNexus, hostile: str, words: list[str]
) -> None:
    if words in (["cancel"], ["claim"]):
        board.retry(hostile)
    given = [] if words in (["list"], ["agents", "list"]) else [hostile]
    if words == ["claim"]:
        given += ["--agent", "B"]
    said = command(*words, *given)
    assert said.code == 0, said
    assert not escapes(said.out + said.err)
    assert "T 1" in said.out + said.err or words in (["history"], ["agents", "list"], ["explain"])


def test_what_is_shown_of_hostile_text_is_its_words(done: Callable[..., Said], hostile: str) -> None:
    assert TAMED in " ".join(done("show", hostile).out.split())
    assert TAMED in done("list").out


def test_errors_and_rejects_are_tamed_as_well(command: Callable[..., Said], elsewhere: Path) -> None:
    assert not escapes(command("show", HOSTILE).err)
    assert not escapes(command("claim", "--agent", HOSTILE).err)
    assert not escapes(command("list", "--status", HOSTILE).err)
    assert not escapes(command(HOSTILE).err)
    Path("bo\x1b[31mard.json").write_text(json.dumps([{"task_id": "A", "priority": HOSTILE}, HOSTILE]))
    said = command("import", "bo\x1b[31mard.json")
    assert said.code == 1
    assert not escapes(said.err)


def test_json_keeps_the_text_as_it_is(done: Callable[..., Said], hostile: str) -> None:
    assert done("show", hostile, "--json").data["description"] == HOSTILE


# -- one document -------------------------------------------------------------------------------------------


def test_a_list_of_nothing(done: Callable[..., Said]) -> None:
    said = done("list")
    assert said.out == ""
    assert said.line == "No tasks yet: nexus add, nexus import, nexus run quickstart."
    assert done("list", "--status", "failed").line == "No task is like that."
    assert done("list", "--json").out == "[]\n"


def test_a_long_list_says_how_it_goes_on(done: Callable[..., Said], board: TaskNexus) -> None:
    board.add_tasks([{"task_id": f"T{number}"} for number in range(5)])
    first = done("list", "--limit", "2")
    assert first.line == "There may be more: nexus list --after T1"
    assert [one["task_id"] for one in done("list", "--after", "T1", "--json").data] == ["T2", "T3", "T4"]


# -- tables -------------------------------------------------------------------------------------------------


def test_a_pipe_gets_all_of_a_text_and_no_blanks_at_the_ends(done: Callable[..., Said], board: TaskNexus) -> None:
    board.add_tasks([{"task_id": "A", "description": "long " * 100}, {"task_id": "B", "description": "short"}])
    lines = done("list").out.splitlines()
    assert lines == [line.rstrip() for line in lines]
    assert lines[1].endswith(" " + ("long " * 100).strip())
    assert len(lines[2]) < 80


def test_a_terminal_gets_lines_that_fit(board: TaskNexus) -> None:
    board.add_task({"task_id": "A" * 60, "description": "long " * 100, "payload": {"text": "wide " * 50}})
    board.close()
    for words in (["list"], ["stats"], ["history", "A" * 60], ["agents", "list"], ["explain", "A" * 60]):
        code, shown = on_a_terminal(*words, columns=80, NO_COLOR="1")
        assert code == 0
        plain = shown.replace("\x1b[1m", "").replace("\x1b[0m", "")
        assert max(map(len, plain.splitlines())) <= 80, plain


def test_colour_on_a_terminal_and_none_where_it_is_not_wanted(board: TaskNexus) -> None:
    board.add_task({"task_id": "A"})
    board.cancel("A")
    board.add_task({"task_id": "B"})
    board.claim("Ada")
    board.close()
    coloured = "\x1b[36mclaimed"
    assert coloured in on_a_terminal("list")[1]
    assert coloured not in on_a_terminal("list", NO_COLOR="1")[1]
    assert b"\x1b" not in nexus("list").stdout


def test_show_speaks_json_and_leaves_out_what_says_nothing(done: Callable[..., Said], board: TaskNexus) -> None:
    board.add_task({"task_id": "A", "payload": {"deep": [1, {"ä": None}]}, "tags": ["x", "y"], "requires_review": True})
    lines = dict(line.split(maxsplit=1) for line in done("show", "A").out.splitlines())
    assert lines["payload"] == '{"deep": [1, {"ä": null}]}'
    assert lines["tags"] == "x, y"
    assert lines["requires_review"] == "yes"
    assert not lines.keys() & {"claim_no", "attempt_count", "failure_count", "loss_count", "result", "extra", "error"}


# -- pipes and encodings ------------------------------------------------------------------------------------


@pytest.fixture
def full(board: TaskNexus) -> None:
    """More than a pipe holds."""
    board.add_tasks([{"task_id": f"T{number}", "description": "words " * 50} for number in range(1000)])
    board.close()


@pytest.mark.parametrize("words", ["list -n 1000", "list -n 1000 --json", "export -"])
def test_a_reader_who_has_had_enough(full: None, words: str) -> None:
    ended = shell(f"nexus {words} | head -1")
    assert len(ended.stdout.splitlines()) == 1
    assert (ended.returncode, ended.stderr.replace(b"There may be more: nexus list --after T999\n", b"")) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("words", ["list", "list --json", "stats", "export -", "claim --agent A", "--help"])
def test_a_disk_that_is_full(full: None, words: str) -> None:
    ended = shell(f"nexus {words} > /dev/full")
    assert ended.returncode == 1
    said = ended.stderr.splitlines()[-1].decode()
    told = json.loads(said)["error"]["message"] if "--json" in words else said
    assert told == "The output cannot be written: No space left on device."
    assert b"Traceback" not in ended.stderr


def test_a_terminal_that_knows_no_umlauts(board: TaskNexus) -> None:
    board.add_task({"task_id": "Ü", "description": "naïve 🚀"})
    board.close()
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    for words in (["list"], ["show", "Ü"], ["--help"], ["show", "ß"]):
        ended = nexus(*words, env=ascii_only)
        assert ended.returncode == (1 if "ß" in words else 0)
        assert b"Traceback" not in ended.stderr
    assert json.loads(nexus("list", "--json", env=ascii_only).stdout)[0]["description"] == "naïve 🚀"
    assert json.loads(nexus("export", "-", env=ascii_only).stdout)["tasks"][0]["task_id"] == "Ü"


# -- the live display ---------------------------------------------------------------------------------------


def drawn(display: Display, columns: int = 80) -> list[str]:
    """What stands on a terminal of that width."""
    screen = Console(file=io.StringIO(), width=columns, force_terminal=True, color_system=None)
    screen.print(display.draw(display.look()))
    return screen.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_the_display_shows_who_works_on_what_and_how_far_it_is(board: TaskNexus) -> None:
    board.add_tasks([{"task_id": name, "episode_id": "E"} for name in ("A", "B", "C", "T\u202e1\x9b2J")])
    board.add_task({"task_id": "elsewhere"})
    board.complete(at_work(board, "A", "Ada"), "done")
    at_work(board, "B", "Ada")
    board.claim_task("T\u202e1\x9b2J", "Bo")
    lines = drawn(Display(board, "E", ["Ada", "Bo", "Cy"]))
    shown = " / ".join(" ".join(line.split()) for line in lines)
    assert "Ada B · attempt 1 / Bo T 1 2J · attempt 1 / Cy waits" in shown
    assert "1 pending 1 claimed 1 in_progress 1 completed" in shown
    assert max(map(len, lines)) <= 80


def test_the_display_says_what_is_waited_for(board: TaskNexus) -> None:
    board.add_task({"task_id": "later", "episode_id": "E", "available_at": "2190-01-01T00:00:00Z"})
    shown = " ".join(" ".join(drawn(Display(board, "E", ["Ada"]))).split())
    assert "waiting for later: it is not offered before 2190-01-01 00:00:00 UTC" in shown


async def test_on_a_pipe_there_is_a_line_for_each_change(board: TaskNexus, capsys: pytest.CaptureFixture[str]) -> None:
    board.add_task({"task_id": "A", "episode_id": "E"})
    board.add_task({"task_id": "later", "episode_id": "E", "available_at": "2190-01-01T00:00:00Z"})
    with Display(board, "E", ["Ada"]) as display:
        await asyncio.to_thread(display.show)
        await asyncio.to_thread(display.show)
        at_work(board, "A", "Ada")
        await asyncio.to_thread(display.show)
        board.mark_task_completed("A")
        await asyncio.to_thread(display.show)
        await asyncio.to_thread(display.show)
    assert capsys.readouterr().err.splitlines() == [
        "2 pending",
        "1 pending  1 in_progress",
        "1 pending  1 completed",
        "waiting for later: it is not offered before 2190-01-01 00:00:00 UTC",
    ]


def at_work(board: TaskNexus, task_id: str, agent_id: str):  # type: ignore[no-untyped-def]
    """The claim of an agent who has begun."""
    claim = board.claim_task(task_id, agent_id)
    board.start(claim)
    return claim
