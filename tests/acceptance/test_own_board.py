"""`nexus run` on a board of one's own: what works, what fails, what stays, and why; said by name, and by exit code."""

import json
from typing import Any

import pytest

from .conftest import Place

ALLOWED = {"NEXUS_COMMAND__ALLOWED_PROGRAMS": '["sh"]'}


def sh(task_id: str, script: str, **more: Any) -> dict[str, Any]:
    """A task that runs a line of shell."""
    return {"task_id": task_id, "task_type": "command", "payload": {"argv": ["sh", "-c", script]}, **more}


BOARD = [
    {"task_id": "hello", "task_type": "echo", "payload": {"say": "hi"}, "description": "\x1b[31mhi"},
    sh("worked", "echo $NEXUS_TASK_ID $NEXUS_ATTEMPT; pwd", depends_on=["hello"]),
    sh("broken", "printf '\\033[31mred\\n' >&2; exit 3", retry_policy={"max_attempts": 2, "backoff_seconds": 0.1}),
    {"task_id": "after-broken", "task_type": "echo", "depends_on": ["broken"]},
    {"task_id": "after-that", "task_type": "echo", "depends_on": ["after-broken"]},
    {"task_id": "outside", "task_type": "paint"},
    {"task_id": "reviewed", "task_type": "echo", "requires_review": True},
    {"task_id": "capable", "task_type": "echo", "required_capabilities": ["gpu"]},
    {"task_id": "forbidden", "task_type": "command", "payload": {"argv": ["rm", "precious"]}},
    {"task_id": "assigned", "task_type": "echo", "assigned_to": "Zoe"},
    {"task_id": "http", "task_type": "http", "payload": {"url": "http://127.0.0.1/"}},
]


def as_lines(tasks: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(one) + "\n" for one in tasks)


@pytest.mark.usefixtures("served_before")
def test_a_board_with_everything_that_can_become_of_a_task(place: Place) -> None:
    (place.directory / "board.jsonl").write_text(as_lines(BOARD))
    run = place.run("board.jsonl", **ALLOWED)
    assert run.ended() == 1
    rows = {line.split()[0]: line.split()[1:3] for line in run.out.splitlines()}
    assert (rows["hello"], rows["worked"], rows["assigned"]) == (["completed", "1"],) * 3
    assert (rows["broken"], rows["forbidden"]) == (["failed", "2"], ["failed", "1"])
    assert (rows["after-broken"], rows["outside"], rows["reviewed"]) == (
        ["pending", "0"],
        ["pending", "0"],
        ["in_review", "1"],
    )
    assert not [char for char in run.out + run.err if not char.isprintable() and char != "\n"]

    said = run.err.splitlines()
    for expected in (
        "Board board: 11 accepted, 0 updated, 0 unchanged, 0 rejected.",
        "left: after-broken: it waits for broken, which is failed",
        "left: after-that: it waits for after-broken, which is pending",
        "left: outside: no agent here has a handler for 'paint'; it stays for agents that work outside (`nexus claim`)",
        "left: reviewed: it waits for a review",
        "left: capable: no agent at work here has gpu",
    ):
        assert expected in said, run.err
    assert [line for line in said if line.startswith("failed: broken: CommandFailed: sh ended with exit code 3")]
    assert [line for line in said if line.startswith("failed: forbidden: GiveUp: rm is not among the programs")]
    assert not [line for line in said if line.startswith("failed: ") and "broken" not in line and "forbid" not in line]
    assert place.processes() == {}

    with place.nexus() as nexus:
        assert nexus.get_task_by_id("worked").result["stdout"] == f"worked 1\n{place.directory}\n"
        assert nexus.get_task_by_id("assigned").claimed_by == "Zoe", "whoever the board assigns tasks to works as well"
        assert [reason.code for reason in nexus.explain("outside")] == ["no_handler", "sweep"]
        assert [reason.code for reason in nexus.explain("http")] == ["no_handler", "sweep"]
    explain = place.start("explain", "outside")
    assert explain.ended() == 0
    assert explain.out.startswith("no_handler: no agent here has a handler for 'paint'")
    explain = place.start("explain", "http")
    assert explain.ended() == 0
    assert "NEXUS_HTTP__ALLOWED_HOSTS" in explain.out, "it says which setting lets it run"

    # An operator mends what was broken, allows what was wanted, and runs the same board again.
    with place.nexus() as nexus:
        nexus.retry("broken")
        nexus.approve("reviewed", "Eve")
    again = place.run("board.jsonl", "--capability", "gpu", "--agent", "Solo", "--json", **ALLOWED)
    assert again.ended() == 1
    report = json.loads(again.out)
    ended = {task["task_id"]: task["status"] for task in report["tasks"]}
    assert (ended["capable"], ended["reviewed"], ended["broken"]) == ("completed", "completed", "failed")
    assert [one["number"] for one in report["attempts"]["broken"]] == [1, 2, 3, 4], "a fresh budget, the history kept"
    assert len(report["attempts"]["hello"]) == 1, "what was done is not done again"
    assert sorted(report["left"]) == ["after-broken", "after-that", "http", "outside"]


@pytest.mark.usefixtures("served_before")
def test_a_board_that_works_is_exit_code_0(place: Place) -> None:
    (place.directory / "board.yaml").write_text("tasks:\n  - {task_id: A, task_type: echo, payload: {n: 1}}\n")
    run = place.run("board.yaml")
    assert run.ended() == 0, run.err
    assert run.err.splitlines()[-1].startswith("Runs:")
    with place.nexus() as nexus:
        assert nexus.get_task_by_id("A").result == {"n": 1}
        assert nexus.get_task_by_id("A").episode_id == "board"


def test_a_board_that_cannot_be_read_starts_nothing(place: Place) -> None:
    (place.directory / "board.json").write_text('[{"task_id": ')
    run = place.run("board.json")
    assert run.ended() == 1
    assert run.out == ""
    assert run.err.startswith("board.json: is not JSON")
    assert len(run.err.splitlines()) == 1
    assert not (place.home / "server.log").exists()


def test_closed_registration_starts_nothing(place: Place) -> None:
    (place.directory / "board.json").write_text('[{"task_id": "A", "task_type": "echo"}]')
    run = place.run("board.json", NEXUS_REGISTRATION="closed")
    assert run.ended() == 1
    assert run.err.splitlines()[-1] == (
        "Agent 'Agent-1' is not confirmed and registration is closed; an operator can run "
        "`nexus agents register Agent-1`."
    )
    assert not (place.home / "server.log").exists(), "that is known before a server is started"


def test_an_api_that_does_not_answer(place: Place) -> None:
    (place.directory / "board.json").write_text('[{"task_id": "A", "task_type": "echo"}]')
    run = place.run("board.json", PREFECT_API_URL=f"http://127.0.0.1:{place.port}/api")
    assert run.ended() == 1
    assert run.err.splitlines()[-1].startswith(
        f"The configured Prefect API http://127.0.0.1:{place.port}/api does not answer"
    )
