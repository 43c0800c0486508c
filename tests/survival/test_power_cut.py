"""The process is killed, or the power goes (SQLite): what was acknowledged is there, and the file is sound.

A power cut is made by stopping the writer at any moment and taking its files as they are then. All that was written
is in such a copy; what was not yet synced may be missing from a disk that lost its power, so the tail of the log, from
the last acknowledged commit on, is torn in every way. The index of the log (-shm) is in memory: it may be gone, be
there, or be rubbish.
"""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nexus import NexusSettings, TaskNexus

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("worker.py")


class Agent:
    """A working process, and what was acknowledged to it so far."""

    def __init__(self, url: str, name: str, checkpoint_pages: int = 1000, synchronous: str = "FULL") -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "NEXUS_SQLITE_SYNCHRONOUS": synchronous}
        command = [sys.executable, str(WORKER), url, name, str(checkpoint_pages)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        self.acknowledged: list[tuple[str, int]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):
                task_id, size = line.split()
                self.acknowledged.append((task_id, int(size)))

    @property
    def done(self) -> set[str]:
        """The tasks whose completion was acknowledged."""
        return {task_id for task_id, _ in self.acknowledged}

    def works(self, until: int) -> None:
        """Wait until so many were acknowledged."""
        deadline = time.monotonic() + 30
        while len(self.acknowledged) < until:
            assert self.process.poll() is None, "the agent has died"
            assert time.monotonic() < deadline, "the agent does nothing"
            time.sleep(0.001)

    def stop(self) -> None:
        """Let it stand still, in the middle of whatever it does."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)
        time.sleep(0.005)  # what it has said before is read

    def go_on(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()
        self._reader.join()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """`agent("Ada")`: starts to work on the board of this test."""
    started: list[Agent] = []

    def start(name: str, **how: object) -> Agent:
        started.append(Agent(f"sqlite:///{tmp_path / 'board.db'}", name, **how))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for one in started:
        one.kill()


def look(path: Path) -> set[str]:
    """Open a file as after a crash, look whether all is sound, and return what is completed."""
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()
    with TaskNexus(f"sqlite:///{path}", settings=NexusSettings()) as nexus:
        assert [finding for finding in nexus.doctor() if finding.code not in ("sweep", "late_lease")] == []
        for task in nexus.get_all_tasks("completed"):
            assert task.result["words"] == "word " * 50
        return {task.task_id for task in nexus.get_all_tasks("completed")}


def take_copy(path: Path, folder: Path, chance: random.Random, log: bytes | None = None) -> Path:
    """The files of a database as a power cut leaves them; `log` is what the log is found to be."""
    folder.mkdir()
    copy = Path(shutil.copy(path, folder))
    (folder / "board.db-wal").write_bytes(path.with_name("board.db-wal").read_bytes() if log is None else log)
    index = chance.choice(["gone", "there", "rubbish"])
    if index == "there":
        shutil.copy(path.with_name("board.db-shm"), folder)
    elif index == "rubbish":
        (folder / "board.db-shm").write_bytes(chance.randbytes(32_768))
    return copy


def test_killed_again_and_again_an_agent_loses_nothing_that_was_acknowledged(
    agent: Callable[..., Agent], tmp_path: Path
) -> None:
    acknowledged: set[str] = set()
    with TaskNexus(f"sqlite:///{tmp_path / 'board.db'}") as nexus:
        nexus.add_tasks({} for _ in range(1000))  # more than they come to do: whoever is killed holds something
        for number in range(3):
            one = agent(f"Agent-{number}", checkpoint_pages=40)
            one.works(random.randint(5, 60))
            one.kill()
            assert len(one.done) == len(one.acknowledged), "nothing was done twice"
            assert not acknowledged & one.done, "nothing was done twice"
            acknowledged |= one.done
            completed = look(tmp_path / "board.db")
            assert acknowledged <= completed
            acknowledged = completed  # it may have been killed before it could say so
        time.sleep(0.5)
        nexus.sweep()
        assert nexus.stats().keys() == {"completed", "pending"}, "what the dead held is offered again"


def test_a_new_board_survives_being_killed_while_it_is_made(agent: Callable[..., Agent], tmp_path: Path) -> None:
    for _ in range(3):
        one = agent("Ada")
        time.sleep(random.uniform(0.2, 0.7))
        one.kill()
        assert one.done <= look(tmp_path / "board.db")


def test_the_power_goes_at_any_moment(agent: Callable[..., Agent], tmp_path: Path) -> None:
    chance = random.Random(7)
    one = agent("Ada", checkpoint_pages=30)  # so that it goes in the middle of checkpoints too
    for number in range(15):
        one.works(len(one.acknowledged) + chance.randint(1, 8))
        time.sleep(chance.uniform(0, 0.003))
        one.stop()
        before = one.done
        copy = take_copy(tmp_path / "board.db", tmp_path / f"copy-{number}", chance)
        one.go_on()
        assert before <= look(copy)


def test_the_power_goes_and_takes_what_was_not_synced(agent: Callable[..., Agent], tmp_path: Path) -> None:
    chance = random.Random(8)
    one = agent("Ada", checkpoint_pages=0)  # the log only grows: what was synced for whom can be told by its length
    for number in range(15):
        one.works(len(one.acknowledged) + chance.randint(1, 8))
        one.stop()
        before, synced = one.done, one.acknowledged[-1][1]
        log = (tmp_path / "board.db-wal").read_bytes()
        tail = bytearray(log[synced:])
        for _ in range(chance.randint(0, 3) if tail else 0):  # sectors that never came to the disk
            first = chance.randrange(len(tail)) // 512 * 512
            tail[first : first + 512] = bytes(len(tail[first : first + 512]))
        torn = log[:synced] + tail[: chance.randint(0, len(tail))]
        copy = take_copy(tmp_path / "board.db", tmp_path / f"copy-{number}", chance, torn)
        one.go_on()
        assert before <= look(copy)


def test_with_synchronous_normal_a_power_cut_takes_the_last_moments_and_nothing_else(
    agent: Callable[..., Agent], tmp_path: Path
) -> None:
    """The log is not synced by commits then, so that any part of its end may be missing."""
    chance = random.Random(9)
    one = agent("Ada", checkpoint_pages=0, synchronous="NORMAL")
    one.works(80)
    one.stop()
    order = [task_id for task_id, _ in one.acknowledged]
    log = (tmp_path / "board.db-wal").read_bytes()
    for number in range(12):
        rest = log[: chance.randint(min(size for _, size in one.acknowledged), len(log))]
        there = look(take_copy(tmp_path / "board.db", tmp_path / f"copy-{number}", chance, rest))
        kept = [task_id for task_id in order if task_id in there]
        assert kept == order[: len(kept)], "only the last ones are gone"
    one.go_on()
