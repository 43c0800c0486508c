"""A run that is stopped or killed in the middle: nothing is lost, nothing is done twice, nothing stays behind."""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from .conftest import Place, Running, wait_until

ALLOWED = {"NEXUS_COMMAND__ALLOWED_PROGRAMS": '["sh"]'}

# Each run of it leaves a line in `log`; until somebody makes `go`, it says that it has begun and sleeps.
SLEEPER = 'echo "$0 $NEXUS_ATTEMPT" >> log; [ -e go ] && exit; echo $$ > begun.new; mv begun.new begun; exec sleep 600'


def sh(task_id: str, script: str, **more: Any) -> dict[str, Any]:
    """A task that runs a line of shell, which knows the task's id as $0."""
    return {"task_id": task_id, "task_type": "command", "payload": {"argv": ["sh", "-c", script, task_id]}, **more}


BOARD = [
    sh("first", 'echo "$0 $NEXUS_ATTEMPT" >> log'),
    sh("sleeper", SLEEPER, depends_on=["first"]),
    sh("last", 'echo "$0 $NEXUS_ATTEMPT" >> log', depends_on=["sleeper"]),
]


def begun(place: Place, run: Running) -> int:
    """The process of the program that sleeps, once it does."""
    path = place.directory / "begun"
    wait_until(lambda: path.exists() or run.process.poll() is not None, lambda: run.err)
    assert path.exists(), run.err
    pid = int(path.read_text())
    path.unlink()
    return pid


def lives(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


@pytest.mark.usefixtures("served_before")
def test_a_run_that_is_stopped_three_times(place: Place) -> None:
    place.write_board("board.json", BOARD)
    attempts = []

    # Ctrl-C, then SIGTERM: what is held is handed back, and nothing is left of it.
    for number in (signal.SIGINT, signal.SIGTERM):
        run = place.run("board.json", **ALLOWED)
        pid = begun(place, run)
        run.process.send_signal(number)
        assert run.ended() == 130, run.err
        assert run.err.splitlines()[-1] == "Stopped: what was held is handed back. The same command goes on from here."
        assert not lives(pid)
        assert place.processes() == {}
        attempts.append("released")
        with place.nexus() as nexus:
            assert [one.outcome for one in nexus.attempts("sleeper")] == attempts
            assert nexus.get_task_by_id("sleeper").status == "pending"

    # SIGKILL: nobody can hand anything back. The lease ends, and the next run takes over.
    run = place.run("board.json", **ALLOWED)
    orphan = begun(place, run)
    run.process.kill()
    run.process.wait()
    with place.nexus() as nexus:
        assert nexus.get_task_by_id("sleeper").status == "in_progress", "so it looks to everybody until the lease ends"
    # Its program lives on: at least once, not at most once. What it does is its own affair; here it just sleeps.
    if lives(orphan):
        os.killpg(orphan, signal.SIGKILL)
    (place.directory / "go").touch()
    run = place.run("board.json", **ALLOWED)
    assert run.ended() == 0, run.err
    assert place.processes() == {}, "the server that the killed run left behind is gone as well"
    with place.nexus() as nexus:
        assert [one.outcome for one in nexus.attempts("sleeper")] == ["released", "released", "lost", "completed"]
        assert [one.outcome for one in nexus.attempts("first")] == ["completed"]
        assert [one.outcome for one in nexus.attempts("last")] == ["completed"]
        assert nexus.stats() == {"completed": 3}
    log = (place.directory / "log").read_text().splitlines()
    assert log == ["first 1", "sleeper 1", "sleeper 2", "sleeper 3", "sleeper 4", "last 1"]

    # And Prefect has been told the truth: nothing is drawn as running for ever.
    states = dict(place.prefect("SELECT state_type, count(*) FROM flow_run GROUP BY state_type"))
    assert states.keys() <= {"COMPLETED", "CANCELLED", "CRASHED", "FAILED"}
    assert states["COMPLETED"] == 1
    assert place.prefect("SELECT name, state_type FROM task_run WHERE state_type IN ('RUNNING', 'PENDING')") == []


def test_a_start_that_is_stopped_leaves_nothing(place: Place) -> None:
    place.write_board("board.json", [{"task_id": "A", "task_type": "echo"}])
    run = place.run("board.json")
    wait_until(lambda: "Prefect server starting" in run.err, lambda: run.err)
    run.process.send_signal(signal.SIGTERM)
    assert run.ended() == 130
    assert place.processes() == {}
