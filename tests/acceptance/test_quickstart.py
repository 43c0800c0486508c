"""`nexus run quickstart`, as the README has it: on a directory with files, once, twice, and once more on a copy."""

import hashlib
import json
import os
import re
from pathlib import Path

from deployments.ports import port_is_free

from .conftest import Place

FILES = {
    "a.txt": b"hello\n",
    "empty": b"",
    "docs/b|c.md": b"# x | y\n",
    "docs/deep/er/d.bin": bytes(range(256)) * 5000,
    "with blank.TXT": b"blank\n",
    "ümläut.txt": "ü".encode(),
    "ugly\x1b[31mname": b"red",
    "two\nlines": b"2",
}
LEFT_OUT = {".hidden/secret": b"no", "node_modules/x.js": b"no", "__pycache__/x.pyc": b"no"}

DEAD_LETTER = "always-fails"
OTHERS = ["inventory", "checksum-1", "checksum-2", "checksum-3", "checksum-4", "flaky-command", "report"]


def test_the_quickstart(place: Place) -> None:
    for name, content in {**FILES, **LEFT_OUT}.items():
        path = place.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (place.directory / "link").symlink_to("a.txt")
    os.mkfifo(place.directory / "pipe")

    first = place.run("quickstart")
    assert first.ended() == 0, first.err
    it_worked_the_board(place, suffix="")
    the_report_tells_the_truth(place)
    it_said_what_it_did(place, first.out, first.err)
    prefect_shows_the_runs(place)
    nothing_is_left_running(place)

    # A second time: all is done, nothing is done again.
    second = place.run("quickstart")
    assert second.ended() == 0, second.err
    assert "Board quickstart: 0 accepted, 0 updated, 8 unchanged, 0 rejected." in second.err
    assert "Nothing was left to do" in second.err
    assert "--again" in second.err
    it_worked_the_board(place, suffix="")
    nothing_is_left_running(place)

    # On a copy, for a program.
    third = place.run("quickstart", "--again", "--json")
    assert third.ended() == 0, third.err
    report = json.loads(third.out)
    assert report["episode_id"] == "quickstart-2"
    assert {task["task_id"]: task["status"] for task in report["tasks"]} == {
        f"{name}-2": "failed" if name == DEAD_LETTER else "completed" for name in (*OTHERS, DEAD_LETTER)
    }
    assert [one["outcome"] for one in report["attempts"]["flaky-command-2"]] == ["failed", "failed", "completed"]
    assert report["left"] == {}
    it_worked_the_board(place, suffix="")
    it_worked_the_board(place, suffix="-2")
    nothing_is_left_running(place)


def it_worked_the_board(place: Place, suffix: str) -> None:
    with place.nexus() as nexus:
        tasks = {task.task_id: task for task in nexus.get_all_tasks(episode_id=f"quickstart{suffix}")}
        assert sorted(tasks) == sorted(f"{name}{suffix}" for name in (*OTHERS, DEAD_LETTER))
        for name in OTHERS:
            assert tasks[f"{name}{suffix}"].status == "completed"
        assert tasks[f"{DEAD_LETTER}{suffix}"].status == "failed"
        tried = {
            name: [attempt.outcome.value for attempt in nexus.attempts(f"{name}{suffix}")]
            for name in (*OTHERS, DEAD_LETTER)
        }
        assert tried.pop("flaky-command") == ["failed", "failed", "completed"]
        assert tried.pop(DEAD_LETTER) == ["failed"] * 3
        assert all(outcomes == ["completed"] for outcomes in tried.values())
        for attempt in nexus.attempts(f"flaky-command{suffix}"):
            assert set(attempt.run_ref) >= {"flow_run_id", "task_run_id"}, "an attempt names the run that made it"


def the_report_tells_the_truth(place: Place) -> None:
    with place.nexus() as nexus:
        results = {task.task_id: task.result for task in nexus.get_all_tasks()}
    # The board's own files lie in .nexus, which is left out, so the directory is as it was.
    assert results["inventory"]["files"] == len(FILES)
    assert results["inventory"]["bytes"] == sum(map(len, FILES.values()))
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    found: dict[str, str] = {}
    for number in range(1, 5):
        result = results[f"checksum-{number}"]
        assert result["skipped"] == 0
        kept = Path(result["list"])
        assert kept.parent == place.home
        text = kept.read_text(encoding="utf-8")
        assert hashlib.sha256(text.encode()).hexdigest() == result["sha256_of_list"]
        for line in text.splitlines():
            digest, _, name = line.partition("  ")
            found[json.loads(name) if name.startswith('"') else name] = digest
    assert found == digests
    report = (place.home / "quickstart-report.md").read_text(encoding="utf-8")
    assert results["report"]["report"] == str(place.home / "quickstart-report.md")
    assert f"{len(FILES):,} files, {sum(map(len, FILES.values())):,} bytes." in report
    assert "| .txt | 3 |" in report
    for number in range(1, 5):
        assert f"| checksum-{number} |" in report
        assert results[f"checksum-{number}"]["sha256_of_list"][:16] in report
    assert "attempt 3: worked" in report


def it_said_what_it_did(place: Place, out: str, err: str) -> None:
    rows = {line.split()[0]: line.split()[1:4] for line in out.splitlines()}
    assert rows["task"][:2] == ["status", "attempts"]
    assert rows["flaky-command"][:2] == ["completed", "3"]
    assert rows[DEAD_LETTER][:2] == ["failed", "3"]
    assert "Board quickstart: 8 accepted, 0 updated, 0 unchanged, 0 rejected." in err
    assert f"Prefect UI: http://127.0.0.1:{place.port}" in err
    assert "8 pending" in err, "on a pipe each change of the counts is a line"
    assert "7 completed  1 failed" in err
    assert "failed (as it should): always-fails:" in err
    assert f"Report:  {place.home / 'quickstart-report.md'}" in err
    assert re.search(rf"nexus up --port {place.port} .*/v2/runs/flow-run/[0-9a-f-]{{36}}", err)


def prefect_shows_the_runs(place: Place) -> None:
    assert place.prefect("SELECT name, state_type FROM flow_run") == [("episode quickstart", "COMPLETED")]
    names = [name for (name,) in place.prefect("SELECT name FROM task_run")]
    assert len(names) == 12, "one task run for each attempt"
    for expected in ("flaky-command · attempt 1 · ", "flaky-command · attempt 3 · ", "report · attempt 1 · "):
        [name] = [name for name in names if name.startswith(expected)]
        assert name.rpartition(" · ")[2] in ("Agent-1", "Agent-2", "Agent-3")
    states = place.prefect("SELECT state_type, count(*) FROM task_run GROUP BY state_type ORDER BY state_type")
    assert states == [("COMPLETED", 7), ("FAILED", 5)], "a failed attempt is red"


def nothing_is_left_running(place: Place) -> None:
    assert port_is_free("127.0.0.1", place.port)
    assert place.processes() == {}
    assert not (place.home / "server.json").exists()
