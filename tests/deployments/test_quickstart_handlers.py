"""The quickstart's own handlers on directories that no demonstration ever shows. No Prefect here."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import deployments.quickstart.handlers  # noqa: F401 - registers them
from deployments.quickstart.handlers import INVENTORY, listed, name_of
from flows.runner import run_attempt
from nexus import TaskNexus


@pytest.fixture
async def work(elsewhere: Path) -> Callable[..., Any]:
    """`await work()` runs inventory, four checksums and report on the directory; their results."""

    async def run(**inventory: Any) -> dict[str, Any]:
        with TaskNexus() as nexus:
            nexus.add_task({"task_id": "inventory", "task_type": "quickstart.inventory", "payload": inventory})
            shares = [
                {
                    "task_id": f"checksum-{share}",
                    "task_type": "quickstart.checksum",
                    "payload": {"share": share, "of": 4},
                    "depends_on": ["inventory"],
                }
                for share in range(4)
            ]
            nexus.add_tasks(shares)
            names = ["inventory", *(one["task_id"] for one in shares)]
            nexus.add_task(
                {
                    "task_id": "report",
                    "task_type": "quickstart.report",
                    "payload": {"file": "../../report.md"},
                    "depends_on": names,
                }
            )
            for task_id in (*names, "report"):
                finished = await run_attempt(nexus, nexus.claim_task(task_id, "Ada"))
                assert finished.outcome == "completed", finished.error
            return {task.task_id: task.result for task in nexus.get_all_tasks()}

    return run


def digests(elsewhere: Path) -> dict[str, str]:
    """What the checksum tasks wrote, by file name."""
    found = {}
    for path in (elsewhere / ".nexus").glob("quickstart-sha256-*.txt"):
        for line in filter(None, path.read_text(encoding="utf-8").split("\n")):
            digest, _, name = line.partition("  ")
            found[name_of(name)] = digest
    return found


async def test_an_empty_directory(work: Callable[..., Any], elsewhere: Path) -> None:
    results = await work()
    assert (results["inventory"]["files"], results["inventory"]["complete"]) == (0, True)
    assert [results[f"checksum-{share}"]["files"] for share in range(4)] == [0] * 4
    assert [results[f"checksum-{share}"]["skipped"] for share in range(4)] == [0] * 4
    assert digests(elsewhere) == {}


async def test_names_that_are_no_names(work: Callable[..., Any], elsewhere: Path) -> None:
    names = [b"plain", b"two\nlines", b"\xff\xfe.\xfd", b'"quoted"', b"\x1b[31mred", "ü\u2028.ü".encode(), b" "]
    for number, name in enumerate(names):
        (elsewhere / os.fsdecode(name)).write_bytes(bytes([number]))
    results = await work()
    assert results["inventory"]["files"] == len(names)
    assert digests(elsewhere) == {
        os.fsdecode(name): hashlib.sha256(bytes([number])).hexdigest() for number, name in enumerate(names)
    }
    assert len((elsewhere / ".nexus" / INVENTORY).read_text().split("\n")) == len(names)
    json.dumps(results, ensure_ascii=False).encode()


async def test_more_files_than_wanted(work: Callable[..., Any], elsewhere: Path) -> None:
    for number in range(7):
        (elsewhere / f"{number}.txt").touch()
    results = await work(max_files=5)
    assert (results["inventory"]["files"], results["inventory"]["complete"]) == (5, False)
    assert len(digests(elsewhere)) == 5


async def test_the_report_stays_in_the_home(work: Callable[..., Any], elsewhere: Path) -> None:
    results = await work()
    assert results["report"]["report"] == str(elsewhere / ".nexus" / "report.md")


@pytest.mark.parametrize("name", ["a", "a b", "a\nb", '"a', "\udcff", "\u202e", ""])
def test_a_name_on_a_line(name: str) -> None:
    assert name_of(listed(name)) == name
    assert listed(name).isprintable()
