"""A place to work in: a directory with files, a port of its own, and the `nexus` command in real processes."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from deployments.ports import free_port
from nexus import TaskNexus

ROOT = Path(__file__).parents[2]

START = 240
"""Seconds that a start may take on a busy machine before a test gives up; on a quiet one it is ten."""


def wait_until(fact: Callable[[], Any], what: Callable[[], str], seconds: float = START) -> Any:
    """What `fact` says, once it says something."""
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what()}"
        time.sleep(0.1)
    return found


class Running:
    """A `nexus` command under way: what it says, its signals, its end."""

    def __init__(self, words: tuple[str, ...], env: dict[str, str], cwd: Path) -> None:
        self.lines: list[str] = []
        code = "from deployments.cli import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-u", "-c", code, *words],
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.out, self.err = "", ""
        self._readers = [threading.Thread(target=self._read, args=(name,), daemon=True) for name in ("out", "err")]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str) -> None:
        for line in getattr(self.process, f"std{name}"):
            setattr(self, name, getattr(self, name) + line)

    def ended(self, seconds: float = START) -> int:
        """Its exit code."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it has not ended after {seconds} s: {self.out}{self.err}")
        for reader in self._readers:
            reader.join(10)
        assert "Traceback" not in self.err, self.err
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for reader in self._readers:
            reader.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


class Place:
    """A directory in which somebody works."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.home = directory, directory / ".nexus"
        self.port = free_port("127.0.0.1")
        self._started: list[Running] = []
        scrubbed = {name: value for name, value in os.environ.items() if not name.startswith(("NEXUS_", "PREFECT_"))}
        self.env = {**scrubbed, "HOME": str(directory), "PYTHONPATH": str(ROOT), "COLUMNS": "80"}

    def start(self, *words: str, **env: str) -> Running:
        """Starts `nexus …` here."""
        self._started.append(Running(words, {**self.env, **env}, self.directory))
        return self._started[-1]

    def run(self, board: str, *words: str, **env: str) -> Running:
        """Starts `nexus run BOARD` on the port of this place."""
        return self.start("run", board, "--port", str(self.port), *words, **env)

    def nexus(self) -> TaskNexus:
        """The board of this place; to be closed."""
        return TaskNexus(f"sqlite:///{self.home / 'nexus.db'}")

    def write_board(self, name: str, tasks: list[dict[str, Any]]) -> None:
        (self.directory / name).write_text(json.dumps(tasks), encoding="utf-8")

    def prefect(self, query: str) -> list[tuple[Any, ...]]:
        """Asks the database that the Prefect server of this place left."""
        with closing(sqlite3.connect(self.home / "prefect" / "prefect.db")) as connection:
            return connection.execute(query).fetchall()

    def processes(self) -> dict[int, str]:
        """Every process that lives for this place, by its environment."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                running = (entry / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
                if running and str(self.directory).encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def close(self) -> None:
        for one in self._started:
            one.close()
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def place(elsewhere: Path) -> Iterator[Place]:
    """An empty place."""
    directory = elsewhere / "place"
    directory.mkdir()
    place = Place(directory)
    yield place
    place.close()


@pytest.fixture
def served_before(place: Place, prefect_begun: Callable[[Path], None]) -> None:
    """The place's Prefect server has been started before."""
    prefect_begun(place.home)
