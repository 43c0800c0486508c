"""What a task's text could make a program, a database, a terminal or a page do, tried on each of them."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.handlers import GiveUp, TaskContext
from flows.handlers.command import command as run_command
from flows.handlers.errors import CommandFailed
from flows.overview import page as board_page
from flows.reports import AttemptReport, ShiftReport, cell, task_page
from nexus import NewTask, NexusSettings, Task, TaskNexus
from nexus.states import AttemptOutcome

from .conftest import Said

HOSTILE = [
    "'; DROP TABLE tasks; --", '" OR 1=1 --', "Robert'); DELETE FROM history;--", "\\'; SELECT 1", "%", "_", "%%", "?",
    ":p_task_id", "$1", "{}", "{0}", "{0.__class__.__mro__}", "{task_id}", "%s", "%(now)s", "%n%n", "{{ 7 * 7 }}",
    "{% for x in y %}", "${HOME}", "$(id)", "`id`", "[red]x[/red]", "[/]", "[link=http://x]y[/link]", "[bold",
    ":smile:", "</td><script>alert(1)</script>", "![x](http://evil/x.png)", "[x](javascript:alert(1))", "a | b",
    "--help", "-rf",
]  # fmt: skip
ESCAPES = ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\x1b]8;;http://evil\x1b\\x", "a\rb", "\x08\x08", "\u202etxt.exe"]
FIELDS = ["description", "episode_id", "assigned_to", "task_type", "idempotency_key", "task_id"]


# -- the database and the terminal ----------------------------------------------------------------------------


@pytest.fixture
def boards(sqlite_url: str, postgres_url: str, open_board: Callable[..., TaskNexus]) -> list[TaskNexus]:
    """A board on each database."""
    return [open_board(sqlite_url), open_board(postgres_url)]


def test_no_text_is_read_as_sql_or_as_a_template(boards: list[TaskNexus]) -> None:
    """Whatever field it stands in: it comes back as it was, finds itself only, and takes nothing with it."""
    for board in boards:
        for text in HOSTILE:
            fields = dict.fromkeys(FIELDS, text)
            task = board.add_task({**fields, "tags": [text], "payload": {text: text}, text: text}, actor=text)
            assert task.model_dump(include=set(FIELDS)) == fields
            assert (task.tags, task.payload, task.extra) == ((text,), {text: text}, {text: text})
            for asked in ({"tag": text}, {"episode_id": text}, {"task_type": text}, {"agent_id": text}):
                assert [one.task_id for one in board.get_all_tasks(**asked)] == [text], "no wildcard"
        for text in HOSTILE:
            board.register_agent(text, [text])
            board.pause(text, text)
            assert "paused" in {reason.code for reason in board.explain(text, text)}
            board.resume(text)
            claim = board.claim_task(text, text)
            board.start(claim, {"run": text})
            board.heartbeat(claim, text)
            assert board.fail(claim, text).error == text
            assert board.history(text)[0].actor == text
        assert sum(board.stats().values()) == len(HOSTILE)


TEXTS = ["[red]x[/red]", "{0.__class__.__mro__}", "%(now)s", ":smile:", "[/]", *ESCAPES]


def test_the_terminal_sees_text_and_obeys_none_of_it(command: Callable[..., Said]) -> None:
    for number, text in enumerate(TEXTS):
        words = ["--type", "t" + "".join(filter(str.isprintable, text)), "--by", "A " + text.replace("\r", "")]
        assert command("add", "--id", f"T{number}", *words, "--", text).code == 0
        command("block", f"T{number}", "--reason", text)
    for words in (["list"], ["show", "T0"], ["stats"], ["stalls"], ["agents", "list"], ["doctor", "--no-prefect"]):
        said = command(*words)
        assert not set("\x1b\x9b\x07\x08\r\u202e") & set(said.out + said.err), words
    for number in range(len(TEXTS)):
        for verb in ("show", "history", "explain"):
            said = command(verb, f"T{number}")
            assert said.code == 0
            assert not set("\x1b\x9b\x07\x08\r\u202e") & set(said.out + said.err)
    out = command("list").out
    assert all(text in out for text in TEXTS[:5])


@pytest.mark.parametrize("text", [*HOSTILE, *ESCAPES])
def test_a_page_of_prefect_shows_words_and_nothing_else(text: str) -> None:
    shown = cell(text)
    assert not set("\x1b\x9b\x07\x08\r\n\u202e") & set(shown)
    for opens in ("<script", "![x]", "[x](", " | "):
        assert opens not in shown
    now = "2026-01-01T00:00:00Z"
    one = AttemptReport(task_id=text, number=1, outcome=AttemptOutcome.FAILED, status=None, seconds=1, error=text)
    page = ShiftReport.model_validate({"agent_id": text, "started_at": now, "finished_at": now, "attempts": [one]})
    assert len(page.markdown().splitlines()) == 7
    for opens in ("<script", "![x]", "[x](", "\x1b"):
        assert opens not in page.markdown()


@pytest.mark.parametrize("text", [*HOSTILE, *ESCAPES])
def test_the_page_of_a_task_and_that_of_the_board_do_as_well(nexus: TaskNexus, text: str) -> None:
    words = "".join(char for char in text if char.isprintable()).strip() or "nothing"
    nexus.add_task({"task_id": "T1", "task_type": words, "description": text, "retry_policy": {"max_attempts": 1}})
    nexus.register_agent(words)
    nexus.fail(nexus.claim(words, 1, start=True)[0], text)
    task = nexus.get_task_by_id("T1")
    assert task is not None
    for page in (task_page(task, nexus.attempts("T1"), nexus.history("T1")), board_page(nexus.overview())):
        assert not set("\x1b\x9b\x07\x08\r\u202e") & set(page)
        for opens in ("<script", "![x]", "[x](", "\x1b"):
            assert opens not in page


# -- the command handler --------------------------------------------------------------------------------------


@pytest.fixture
def workshop(tmp_path: Path) -> Path:
    """Where commands run."""
    (tmp_path / "workshop").mkdir()
    return tmp_path / "workshop"


@pytest.fixture
def run(workshop: Path, sqlite_url: str, open_board: Callable[..., TaskNexus]) -> Callable[..., Any]:
    """Runs a payload as its agent would."""
    board = open_board(sqlite_url, clock=None)

    async def run(**payload: Any) -> Any:
        allowed = {"allowed_programs": ["sh", sys.executable], "working_directory": workshop, "timeout_seconds": 20}
        task: Task = board.add_task(NewTask(task_type="command", payload=payload))
        settings = NexusSettings.load(command=allowed)
        return await run_command(task, TaskContext("A", 1, task.task_id, settings))

    return run


PY = [sys.executable, "-I", "-S", "-c"]


@pytest.mark.parametrize("text", [*HOSTILE, *ESCAPES, "\n", "a b", ""])
async def test_an_argument_is_one_argument_whatever_is_in_it(run: Callable[..., Any], text: str) -> None:
    result = await run(argv=[*PY, "import sys; print(ascii(sys.argv[1:]))", text])
    assert result["stdout"].strip() == ascii([text])


@pytest.mark.parametrize(
    "program", ["sh -c id", "sh;id", "$(which sh)", "../../bin/sh", "sh\nid", "-sh", "env", "/bin/../bin/id"]
)
async def test_the_program_is_a_name_and_no_command_line(run: Callable[..., Any], program: str) -> None:
    with pytest.raises(GiveUp, match="not among the programs"):
        await run(argv=[program, "-c", "true"])


async def test_nothing_of_the_agents_environment_leaks(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "NEXUS_DATABASE_URL", "PREFECT_API_KEY", "PGPASSWORD", "SSH_AUTH_SOCK"):
        monkeypatch.setenv(name, "sqlite:///leak")
    result = await run(argv=[*PY, "import os; print(dict(os.environ))"])
    assert "leak" not in result["stdout"]
    script = "import os; print(sum(os.path.exists(f'/dev/fd/{number}') for number in range(3, 100)))"
    assert (await run(argv=[*PY, script]))["stdout"] == "0\n", "an open file of the agent went along"


async def test_a_link_out_of_the_working_directory_is_no_way_out(run: Callable[..., Any], workshop: Path) -> None:
    (workshop / "out").symlink_to("/")
    (workshop / "in").mkdir()
    (workshop / "in" / "up").symlink_to("../..")
    for cwd in ("out", "out/etc", "in/up", "in/../..", "/etc", "in/up/../../etc"):
        with pytest.raises(GiveUp, match="leads out of"):
            await run(argv=["sh", "-c", "pwd"], cwd=cwd)
    with pytest.raises((GiveUp, CommandFailed)):
        await run(argv=["sh", "-c", "pwd"], cwd="x" * 5000)


FORKS = """
import os, sys, time
for level in range(3):
    if os.fork() == 0:
        {session}
        open(f"pid-{{os.getpid()}}", "w").close()
        if level == 2:
            time.sleep(300)
    else:
        break
if not level:
    time.sleep(0.5)
else:
    time.sleep(300)
"""


def started(workshop: Path) -> list[str]:
    """The processes that there were."""
    return [file.name for file in workshop.glob("pid-*")]


def left(workshop: Path) -> list[int]:
    """The processes that it left."""
    found = []
    for file in workshop.glob("pid-*"):
        stat = Path(f"/proc/{file.name.removeprefix('pid-')}/stat")
        if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX":
            found.append(int(file.name.removeprefix("pid-")))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("session", ["pass", "os.setsid()", "os.setpgid(0, 0)"])
async def test_no_descendant_is_left_behind(run: Callable[..., Any], workshop: Path, session: str) -> None:
    try:
        await run(argv=[*PY, FORKS.format(session=session)])
        assert len(started(workshop)) == 3
        deadline = time.monotonic() + 5
        while left(workshop) and time.monotonic() < deadline:
            time.sleep(0.05)  # noqa: ASYNC251
        assert left(workshop) == []
    finally:
        for pid in left(workshop):
            os.kill(pid, signal.SIGKILL)
