"""Processes that outlive the one that started them: who they are, whether they live, how they end; locks.

A pid alone proves nothing, since it is used again. Where there is /proc, a process is known by its pid and
the time it started; elsewhere the pid has to do.
"""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from deployments.errors import StartBusy

_POLL: Final = 0.1
_PROC: Final = Path("/proc/self/stat").exists()
_LOG_LIMIT: Final = 10 * 2**20


@dataclass(frozen=True)
class ProcessRef:
    """One process, for good: another that gets the same pid later is not it."""

    pid: int
    started: int | None
    """Clock ticks since boot, from /proc; None where there is no /proc."""
    child: "subprocess.Popen[bytes] | None" = field(default=None, compare=False, repr=False)
    """Its handle where it is our own child; None for a process found in a state file."""

    @classmethod
    def of(cls, pid: int, child: "subprocess.Popen[bytes] | None" = None) -> "ProcessRef":
        """The process that has this pid now."""
        stat = _stat(pid)
        return cls(pid, stat.started if stat else None, child)

    def alive(self) -> bool:
        """Whether it still runs. A zombie does not: where nobody reaps orphans it would live for ever."""
        if self.child is not None:
            return self.child.poll() is None
        stat = _stat(self.pid)
        if stat:
            return stat.running and (self.started is None or stat.started == self.started)
        if _PROC:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def signal(self, number: int, *, group: bool = False) -> None:
        """Sends a signal to it, or to the group that it leads; nothing happens where it is gone."""
        if self.alive():
            with suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(self.pid, number)

    def wait(self, seconds: float, hurry: Callable[[], bool] = lambda: False) -> bool:
        """Waits for its end; False where it still lives after `seconds`, or once `hurry` says so."""
        deadline = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > deadline or hurry():
                return not self.alive()
            time.sleep(_POLL)
        return True

    def stop(self, grace: float, *, group: bool = False, hurry: Callable[[], bool] = lambda: False) -> None:
        """SIGTERM (to its whole group, if wanted), `grace` seconds, then SIGKILL to the whole group."""
        self.signal(signal.SIGTERM, group=group)
        if not self.wait(grace, hurry):
            self.signal(signal.SIGKILL, group=True)
            self.wait(5)

    def end_group(
        self,
        grace: float,
        *,
        ours: Callable[[int], bool] = lambda _: True,
        hurry: Callable[[], bool] = lambda: False,
    ) -> None:
        """Ends what its death left of the group that it led: SIGTERM where there is grace, then SIGKILL.

        `ours` is asked about every member: once a group is empty its number may come to be somebody else's.
        Where there is no /proc its members cannot be told apart, and only a child's group is ended.
        """
        if not _PROC:
            if self.child is not None:
                with suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
            return
        members = [member for member in _group(self.pid) if ours(member.pid)]
        if grace > 0:
            for member in members:
                member.signal(signal.SIGTERM)
        deadline = time.monotonic() + grace
        for member in members:
            if not member.wait(max(0.0, deadline - time.monotonic()), hurry):
                member.signal(signal.SIGKILL)

    def group_values(self, name: str) -> set[str] | None:
        """What an environment variable says to the members of the group that it leads; None where there is no /proc."""
        if not _PROC:
            return None
        return {value for member in _group(self.pid) if (value := _environment(member.pid).get(name)) is not None}


def environment_holds(variable: str) -> Callable[[int], bool]:
    """Whether a process was started with this `NAME=value`."""

    name, _, value = variable.partition("=")
    return lambda pid: _environment(pid).get(name) == value


def _environment(pid: int) -> dict[str, str]:
    """What a process was started with; empty where it is gone, or somebody else's."""
    with suppress(OSError):
        lines = os.fsdecode(Path(f"/proc/{pid}/environ").read_bytes()).split("\0")
        return dict(line.split("=", 1) for line in lines if "=" in line)
    return {}


def spawn(
    command: list[str],
    *,
    env: dict[str, str],
    log: Path,
    stdin: int = subprocess.DEVNULL,
    pass_fds: tuple[int, ...] = (),
) -> ProcessRef:
    """Starts a child in a session of its own: Ctrl-C reaches only us, and we choose the order of the end."""
    with open_log(log) as stream:
        child = subprocess.Popen(  # noqa: S603 - our own command line
            command,
            env=env,
            stdin=stdin,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    return ProcessRef.of(child.pid, child)


def open_log(path: Path) -> IO[bytes]:
    """Opens a log to append to; one that has grown big becomes `.1` first, so that the disk does not fill."""
    with suppress(FileNotFoundError):
        if path.stat().st_size > _LOG_LIMIT:
            path.replace(path.with_name(path.name + ".1"))
    return path.open("ab")


class FileLock:
    """flock on a file: the kernel lets go of it when its holder dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def try_acquire(self, *, shared: bool = False) -> bool:
        """Takes the lock, or changes between shared and exclusive; False where others are in the way."""
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def write(self, text: str) -> None:
        """Leaves a word about the holder for those who come later."""
        assert self._fd is not None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text.encode(), 0)

    def read(self) -> str:
        """What the holder has written."""
        with suppress(OSError):
            return self.path.read_text(encoding="utf-8").strip()
        return ""


@contextmanager
def deciding(path: Path, seconds: float = 60) -> Iterator[None]:
    """Holds the lock `path` while something is decided: two starts at once become one after the other."""
    lock = FileLock(path)
    deadline = time.monotonic() + seconds
    try:
        while not lock.try_acquire():
            if time.monotonic() > deadline:
                raise StartBusy(path)
            time.sleep(_POLL)
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class _Stat:
    running: bool
    group: int
    started: int


def _group(leader: int) -> list[ProcessRef]:
    """Who belongs to a group and still runs."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        stat = _stat(int(directory.name))
        if stat and stat.running and stat.group == leader:
            found.append(ProcessRef(int(directory.name), stat.started))
    return found


def _stat(pid: int) -> _Stat | None:
    """What /proc says of a process; None where there is no such process (or no /proc)."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The program's name stands in brackets and may itself hold blanks and brackets: count from their end.
    fields = content.rpartition(")")[2].split()
    return _Stat(running=fields[0] not in "ZX", group=int(fields[2]), started=int(fields[19]))
