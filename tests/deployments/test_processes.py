"""Processes by identity, and locks that die with their holder."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.errors import StartBusy
from deployments.ports import free_port, port_is_free
from deployments.processes import FileLock, ProcessRef, deciding, open_log, spawn

from .live import Command, clean_environment, wait_until

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_a_process_is_known_by_more_than_its_pid(sleeper: "subprocess.Popen[bytes]") -> None:
    it = ProcessRef.of(sleeper.pid)
    assert it.alive()
    assert it.started is not None
    assert not ProcessRef(sleeper.pid, it.started - 1).alive(), "an earlier process with the same pid"
    it.stop(5)
    assert not it.alive()


def test_a_zombie_is_dead(sleeper: "subprocess.Popen[bytes]") -> None:
    it = ProcessRef.of(sleeper.pid)
    sleeper.kill()  # and nobody waits for it
    wait_until(lambda: not it.alive(), 5)


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    it = spawn([sys.executable, "-c", STUBBORN], env=dict(os.environ), log=log)
    wait_until(lambda: log.read_bytes() == b"up\n", 10)
    it.stop(0.5)
    assert not it.alive()


def test_hurry_shortens_the_grace(tmp_path: Path) -> None:
    log = tmp_path / "log"
    it = spawn([sys.executable, "-c", STUBBORN], env=dict(os.environ), log=log)
    wait_until(lambda: log.read_bytes() == b"up\n", 10)
    begun = time.monotonic()
    it.stop(30, hurry=lambda: True)
    assert not it.alive()
    assert time.monotonic() - begun < 10


def test_a_lock_falls_with_its_holder(tmp_path: Path, start: Callable[..., Command]) -> None:
    hold = (
        "import sys; from pathlib import Path; from deployments.processes import FileLock\n"
        "lock = FileLock(Path(sys.argv[1])); print(lock.try_acquire()); sys.stdin.read()"
    )
    path = tmp_path / "lock"
    holder = start(hold, str(path), env=clean_environment(tmp_path), cwd=tmp_path)
    holder.says("True")
    mine = FileLock(path)
    assert not mine.try_acquire()
    assert not mine.try_acquire(shared=True)
    holder.process.kill()
    holder.ended()
    assert mine.try_acquire()
    assert mine.try_acquire(shared=True), "the holder may step down to sharing"
    mine.release()


def test_deciding_is_one_after_the_other(tmp_path: Path) -> None:
    path, order = tmp_path / "lock", []

    def second() -> None:
        with deciding(path):
            order.append("second")

    with deciding(path):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.3)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]


def test_deciding_does_not_wait_for_ever(tmp_path: Path) -> None:
    with deciding(tmp_path / "lock"), pytest.raises(StartBusy), deciding(tmp_path / "lock", seconds=0.2):
        pass


def test_a_big_log_is_turned(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_bytes(b"x" * (10 * 2**20 + 1))
    with open_log(log) as stream:
        stream.write(b"new")
    assert log.read_bytes() == b"new"
    assert (tmp_path / "server.log.1").stat().st_size > 10 * 2**20


def test_ports() -> None:
    import socket

    port = free_port("127.0.0.1")
    assert port_is_free("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)):
        assert not port_is_free("127.0.0.1", port)
        assert not port_is_free("0.0.0.0", port), "also where it would listen everywhere"
    assert not port_is_free("no.such.host.invalid", 80)
