"""What is wrong is said in one line on stderr, with an exit code; never a traceback."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nexus import TaskNexus

from .conftest import Said
from .process import nexus


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nonsense"], "nexus: No such command 'nonsense'."),
        (["list", "--colour"], "nexus list: No such option: --colour"),
        (["list", "--limit", "0"], "nexus list: Invalid value for '--limit' / '-n':"),
        (["list", "--limit", "many"], "nexus list: Invalid value for '--limit' / '-n':"),
        (["list", "--status", "done"], "'done' is no status; the states are pending, claimed, in_progress,"),
        (["show"], "nexus show: Missing argument"),
        (["show", "A", "B"], "nexus show: Got unexpected extra argument"),
        (["claim"], "nexus claim: Missing option '--agent'"),
        (["block", "A"], "nexus block: Missing option '--reason'"),
        (["agents", "register", "A", "--max-concurrency", "0"], "nexus agents register: Invalid value for"),
        (["sweep", "--strategy", "panic"], "nexus sweep: Invalid value for '--strategy':"),
        (["run", "board.json", "--port", "0"], "nexus run: Invalid value for '--port':"),
        (["up", "--port", "70000"], "nexus up: Invalid value for '--port':"),
        (["add", "x", "--payload", "{bad"], "--payload is not JSON ("),
        (["add", "x", "--payload", "@missing.json"], "--payload: No such file or directory: missing.json"),
        (["start", "A"], "Give --claim-no N (from `nexus claim`) or --agent NAME: whose claim is it?"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    refused: Callable[..., str], words: list[str], says: str, elsewhere: Path
) -> None:
    line = refused(*words, code=2)
    assert line.startswith(says)
    if says.startswith("nexus"):
        assert line.endswith(" -h)"), "it says where there is help"


def test_wrong_usage_touches_nothing(refused: Callable[..., str], elsewhere: Path) -> None:
    refused("list", "--limit", "0", code=2)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["list", "-n"],
        ["claim", "-a", "A", "-n"],
        ["start", "A", "-c"],
        ["agents", "register", "A", "--max-concurrency"],
    ],
)
def test_a_number_beyond_all_reason_is_wrong_usage(refused: Callable[..., str], words: list[str]) -> None:
    assert "Invalid value for" in refused(*words, "9" * 30, code=2)


@pytest.mark.parametrize(
    "words",
    [
        ["show", "nope"],
        ["history", "nope"],
        ["explain", "nope"],
        ["claim", "nope", "--agent", "A"],
        ["start", "nope", "--agent", "A"],
        ["heartbeat", "nope", "--claim-no", "1"],
        ["complete", "nope", "--claim-no", "1"],
        ["fail", "nope", "--claim-no", "1", "--error", "x"],
        ["release", "nope", "--agent", "A"],
        ["cancel", "nope"],
        ["retry", "nope"],
        ["block", "nope", "--reason", "x"],
        ["unblock", "nope"],
        ["approve", "nope", "--by", "B"],
        ["reject", "nope", "--by", "B", "--note", "x"],
        ["list", "--after", "nope"],
    ],
)
def test_an_unknown_task_is_named(refused: Callable[..., str], words: list[str]) -> None:
    assert refused(*words) == "There is no task 'nope'; `nexus list` shows the ids."


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["add", "x", "--payload", "[1]"], "payload:"),
        (["add", "x", "--payload", '{"n": NaN}'], "payload: holds nan"),
        (["add", "x", "--priority", "urgent"], "'urgent' is no priority"),
        (["add", "x", "--timeout", "-3"], "timeout_seconds:"),
        (["add", "x", "--timeout", "nan"], "timeout_seconds:"),
        (["add", "x", "--not-before", "yesterday"], "available_at:"),
        (["add", "x", "--not-before", "2030-01-01T08:00"], "has no time zone; add Z"),
        (["add", "x", "--depends-on", "T99"], "depends_on names 'T99', which does not exist"),
        (["add", "x", "--id", ""], "task_id: is empty"),
        (["add", "x", "--id", "A", "--depends-on", "A"], "Dependency cycle: A -> A"),
        (["add", "x", "--max-attempts", "5000"], "retry_policy.max_attempts:"),
        (["agents", "register", " "], "agent_id is empty"),
        (["claim", "--agent", "A", "--lease", "0"], "lease_seconds is 0.0; it must be more than 0"),
        (["sweep", "--pending-timeout", "-5"], "pending_timeout_seconds:"),
        (["run", "missing.json"], "missing.json: there is no such file"),
        (["import", "missing.json"], "missing.json: there is no such file"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    refused: Callable[..., str], done: Callable[..., Said], words: list[str], says: str
) -> None:
    assert says in refused(*words)
    assert done("list", "--json").data == []


def test_text_that_is_not_unicode_is_wrong_usage(elsewhere: Path) -> None:
    for words in (["show", "x\udcff"], ["list", "--tag", "x\udcff"], ["agents", "register", "A", "-c", "x\udcff"]):
        ended = nexus(*words, cwd=elsewhere)
        assert (ended.returncode, ended.stdout) == (2, b"")
        assert ended.stderr == b"An argument is not valid Unicode text.\n"


# -- the database -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "The database URL cannot be read; write sqlite:///"),
        ("mysql://host/board", "mysql is no database that the nexus runs on"),
        ("sqlite:////no/such/folder/board.db", "unable to open database file. Does its folder exist"),
        ("sqlite:///.", "unable to open database file"),
        ("postgresql://u:secret@127.0.0.1:1/board", "Is the server running, and are host and port right?"),
    ],
)
def test_a_wrong_url(refused: Callable[..., str], url: str, says: str) -> None:
    # A server may come to be there by itself, so an agent may try again; for all else somebody has to do something.
    code = 5 if url.startswith("postgresql") else 1
    for line in (refused("--database", url, "list", code=code), refused("list", code=code, NEXUS_DATABASE_URL=url)):
        assert says in line
        assert "secret" not in line


def test_a_file_that_is_no_database(refused: Callable[..., str], elsewhere: Path) -> None:
    text = elsewhere / "notes.db"
    text.write_text("milk, butter, eggs; a page of notes and no database at all\n" * 20)
    before = text.read_bytes()
    for words in (["list"], ["add", "x"], ["db", "upgrade"], ["run", "quickstart"]):
        assert "is not an SQLite database; nothing was written to it" in refused(
            "--database", f"sqlite:///{text}", *words
        )
    assert text.read_bytes() == before


def test_a_database_of_somebody_else(refused: Callable[..., str], elsewhere: Path) -> None:
    path = elsewhere / "recipes.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()
    for words in (["list"], ["add", "x"], ["db", "upgrade"]):
        line = refused("--database", f"sqlite:///{path}", *words)
        assert "holds tables that are not the nexus's (recipes …); nothing was written to it" in line
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("recipes",)]
    connection.close()


def test_a_database_from_a_newer_version(refused: Callable[..., str], board: TaskNexus) -> None:
    board.close()
    path = Path(".nexus/nexus.db")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE nexus_schema_version SET version_num = '9999'")
    connection.close()
    assert "has schema version 9999" in refused("list")
    assert "Upgrade nexus-flows" in refused("db", "upgrade")


AWAY = "postgresql://u:secret@127.0.0.1:1/board"


def test_a_database_that_is_away_is_told_from_a_claim_that_is_lost(
    refused: Callable[..., str], done: Callable[..., Said]
) -> None:
    """An agent that hears `stop` drops its work; one whose database is away keeps it and tries again."""
    done("add", "x", "--id", "T")
    done("claim", "T", "-a", "Ada")
    assert "is lost" in refused("heartbeat", "T", "--claim-no", "7", code=4)
    refused("--database", AWAY, "heartbeat", "T", "--claim-no", "1", code=5)
    refused("--database", "mysql://host/board", "heartbeat", "T", "--claim-no", "1")


def test_with_json_an_error_is_one_object_on_stderr(refused: Callable[..., str], done: Callable[..., Said]) -> None:
    def error(*words: str, code: int) -> Any:
        told = json.loads(refused(*words, "--json", code=code))["error"]
        assert told["exit_code"] == code
        assert told["message"]
        assert "secret" not in told["message"]
        return told

    done("add", "x", "--id", "T")
    done("claim", "T", "-a", "Ada")
    lost = error("complete", "T", "--claim-no", "7", code=4)
    assert (lost["code"], lost["task_id"], lost["claim_no"]) == ("ClaimLost", "T", 7)
    assert set(lost) == {"code", "message", "exit_code", "task_id", "claim_no"}
    assert error("show", "nope", code=1)["code"] == "TaskNotFound"
    assert error("complete", "T", "-a", "Ada", code=1)["status"] == "claimed"
    assert error("--database", AWAY, "list", code=5)["code"] == "DatabaseUnavailable"
    assert error("list", "--limit", "x", code=2)["code"] == "WrongUsage"
    assert error("list", "--status", "x", code=2)["code"] == "WrongUsage"
    assert error("resume", code=1)["code"] == "Refused"


# -- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("NEXUS_LEASE_SECONDS", "long", "lease_seconds:"),
        ("NEXUS_REGISTRATION", "ajar", "registration:"),
        ("NEXUS_SERVICE__PORT", "99999999", "service.port:"),
        ("NEXUS_MONITORING__TYPO", "1", "monitoring.typo:"),
        ("NEXUS_COMMAND__ALLOWED_PROGRAMS", "[sh", "NEXUS_COMMAND__ALLOWED_PROGRAMS is not JSON"),
    ],
)
def test_a_wrong_setting_is_named(refused: Callable[..., str], name: str, value: str, says: str) -> None:
    for words in (["list"], ["db", "upgrade"], ["run", "quickstart"], ["up"]):
        assert says in refused(*words, **{name: value})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"lease_seconds = [", "Invalid value"),
        (b"\xff\xfe", "can't decode byte 0xff"),
        (b"typo = 1", "typo:"),
        (b"lease_seconds = 'x'", "lease_seconds:"),
        (b"[monitoring]\nescalation_strategy = 'panic'", "monitoring.escalation_strategy:"),
    ],
)
def test_a_nexus_toml_that_cannot_be(refused: Callable[..., str], elsewhere: Path, text: bytes, says: str) -> None:
    (elsewhere / "nexus.toml").write_bytes(text)
    line = refused("list")
    assert says in line
    assert "nexus.toml" in line


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that can be opened and not be read")
def test_a_nexus_toml_that_cannot_be_read(refused: Callable[..., str], elsewhere: Path) -> None:
    (elsewhere / "nexus.toml").symlink_to("/proc/self/mem")
    assert "nexus.toml cannot be read: " in refused("list")


def test_a_home_that_cannot_be(refused: Callable[..., str], elsewhere: Path) -> None:
    (elsewhere / "file").touch()
    for words in (["list"], ["db", "upgrade"], ["run", "quickstart"], ["up"]):
        line = refused(*words, NEXUS_HOME="file")
        assert line == "file cannot be made: File exists. Choose another folder with NEXUS_HOME."


def test_a_home_that_cannot_be_though_the_database_is_elsewhere(refused: Callable[..., str], elsewhere: Path) -> None:
    (elsewhere / "file").touch()
    for words in (["run", "quickstart"], ["up"]):
        assert "cannot be made" in refused(*words, NEXUS_HOME="file", NEXUS_DATABASE_URL="sqlite:///board.db")
