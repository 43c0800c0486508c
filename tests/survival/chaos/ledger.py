"""What was really done, counted outside of the nexus: a file for each worker process, a line for each thing done.

A line is one `write` to a file that is only appended to, so it is there however the process ends. Times are those of
the monotonic clock, which all processes of a machine share.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Ledger:
    """The file of one worker. It is made when the worker begins its first execution."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def begins(self, execution: str, task_id: str, claim_no: int, attempt: int, agent_id: str) -> None:
        """A handler begins; `execution` is a name that no other has."""
        self._write({"begins": execution, "task": task_id, "claim": claim_no, "attempt": attempt, "agent": agent_id})

    def ends(self, execution: str, how: str) -> None:
        """It has ended: `returned`, `raised`, or was `stopped`."""
        self._write({"ends": execution, "how": how})

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is None:
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(self._file, (json.dumps({**line, "at": time.monotonic()}) + "\n").encode())


@dataclass(slots=True)
class Execution:
    """One run of a handler."""

    name: str
    task_id: str
    claim_no: int
    attempt: int
    agent_id: str
    ledger: str
    """The file in which it stands, and so whose it was."""
    began: float
    ended: float | None = None
    how: str | None = None
    """None: its process ended first."""


def executions(path: Path) -> list[Execution]:
    """What stands in the file of one worker, in the order in which it began."""
    found: dict[str, Execution] = {}
    for line in _lines(path):
        if name := line.get("begins"):
            found[name] = Execution(
                name, line["task"], line["claim"], line["attempt"], line["agent"], path.name, line["at"]
            )
        else:
            one = found[line["ends"]]
            one.ended, one.how = line["at"], line["how"]
    return list(found.values())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        # The last line may be on its way at this moment.
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)
