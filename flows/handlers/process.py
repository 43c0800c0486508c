"""Runs one program to its end and leaves nothing of it behind: no process, no pipe, no unbounded memory.

A program runs in a session of its own, so that its children can be ended with it. A descendant that makes yet
another session is found by the run's mark (`strays`); one that gets away all the same holds nobody up: its hold on the
pipes is dropped.
"""

import asyncio
import logging
import os
import signal
import tempfile
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from flows.handlers.kept import Kept
from flows.handlers.strays import MARK, end_strays, new_mark

GRACE_SECONDS: Final = 2.0
"""Between SIGTERM and SIGKILL; also how long output may still trickle in once every process is gone."""

_PROC: Final = Path("/proc")
_TAIL_CHARACTERS: Final = 1000

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """A program that came to its end."""

    exit_code: int
    """Negative where a signal ended it."""
    stdout: str
    stderr: str
    seconds: float
    """Wall time from its start until it and its children were gone."""


class _Watch(asyncio.SubprocessProtocol):
    """Takes in both streams as they come, and says when the program is over and when its pipes are closed.

    A protocol and not `asyncio.subprocess.Process`, whose `wait` (Python 3.11) ends only when the pipes are
    closed: a grandchild that holds one open would hang it.
    """

    def __init__(self, max_output_bytes: int) -> None:
        self.exited, self.closed = asyncio.Event(), asyncio.Event()
        self.stdout, self.stderr = Kept(max_output_bytes), Kept(max_output_bytes)
        self._open = {1: self.stdout, 2: self.stderr}

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._open[fd].feed(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._open.pop(fd, None)
        if not self._open:
            self.closed.set()

    def process_exited(self) -> None:
        self.exited.set()


async def run_program(
    argv: Sequence[str],
    *,
    executable: Path,
    cwd: Path,
    env: Mapping[str, str],
    stdin: str | None,
    timeout_seconds: float,
    max_output_bytes: int,
) -> Ended:
    """Runs `executable` with `argv` as its whole argument vector, argv[0] included; no shell is involved.

    Each stream keeps at most `max_output_bytes`, its beginning and its end. When this returns or raises, the
    process group has been ended: SIGTERM, `GRACE_SECONDS` later SIGKILL. Raises `TimeoutError` after
    `timeout_seconds`, and `OSError` where the program cannot be started.
    """
    started, mark = time.monotonic(), new_mark()
    with _input(stdin) as given:
        transport, watch, cancelled = await _uncut(
            asyncio.get_running_loop().subprocess_exec(
                lambda: _Watch(max_output_bytes),
                *argv,
                executable=executable,
                cwd=cwd,
                env={**env, MARK: mark},
                stdin=given,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        )
    try:
        if cancelled:
            raise asyncio.CancelledError
        async with asyncio.timeout(timeout_seconds):
            await watch.exited.wait()
    except TimeoutError:
        said = tail_of(watch.stderr.text())
        raise TimeoutError(f"{argv[0]} did not end within {timeout_seconds:g} s and was stopped{said}") from None
    finally:
        await _end(transport, watch, mark)
    exit_code = transport.get_returncode()
    assert exit_code is not None
    return Ended(exit_code, watch.stdout.text(), watch.stderr.text(), round(time.monotonic() - started, 3))


def tail_of(text: str) -> str:
    """`; it last wrote: …` for a message; nothing where nothing was written."""
    text = text.strip()
    cut = "…" if len(text) > _TAIL_CHARACTERS else ""
    return f"; it last wrote: {cut}{text[-_TAIL_CHARACTERS:]}" if text else ""


async def _uncut(
    start: Coroutine[Any, Any, tuple[asyncio.SubprocessTransport, _Watch]],
) -> tuple[asyncio.SubprocessTransport, _Watch, bool]:
    """Waits until the program has started, whatever happens; the last value is whether a cancellation did.

    Cut short, asyncio would kill the program alone, and then wait for ever where a child of it holds a pipe.
    """
    starting = asyncio.ensure_future(start)
    cancelled = False
    while not starting.done():
        try:
            await asyncio.wait({starting})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled and (fault := starting.exception()) is not None:
        raise asyncio.CancelledError from fault
    return *starting.result(), cancelled


def _input(text: str | None) -> IO[bytes]:
    """What the program reads: a file, since a pipe that nobody reads would have to be waited for."""
    if text is None:
        return Path(os.devnull).open("rb")
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(text.encode())
    file.seek(0)
    return file


async def _end(transport: asyncio.SubprocessTransport, watch: _Watch, mark: str) -> None:
    """Ends what is left of the process group, and who left it; takes in what is left in the pipes; lets go of both."""
    group = transport.get_pid()
    try:
        try:
            if _signal(group, signal.SIGTERM):
                await _until_gone(group)
        finally:
            # Also when a second cancellation cuts the grace short.
            _signal(group, signal.SIGKILL)
            if strays := end_strays(mark):
                _logger.warning("Ended %d processes that had left the group of process %s", strays, group)
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await watch.exited.wait()
                await watch.closed.wait()
        if not watch.exited.is_set():
            _logger.warning("Process %s does not end, not even by SIGKILL; it is left to the system", group)
    finally:
        transport.close()


async def _until_gone(group: int) -> None:
    pause = 0.01
    with suppress(TimeoutError):
        async with asyncio.timeout(GRACE_SECONDS):
            while _signal(group, 0) and _has_living(group):
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, 0.2)


def _signal(group: int, number: int) -> bool:
    """True where the group had somebody to signal.

    No stranger is hit: the system gives no process an id that a group still bears, and a group that may be
    empty is asked for at once after its leader's end, long before ids come round again.
    """
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _has_living(group: int) -> bool:
    """False where `/proc` shows that all members are dead and only wait for somebody to take note.

    Orphans are taken note of by process 1, which in many containers does so late or never.
    """
    if not _PROC.is_dir():
        return True
    for stat in _PROC.glob("[0-9]*/stat"):
        with suppress(OSError):  # gone meanwhile
            # After the name, which is in parentheses and may hold any: state, parent, group.
            state, _, member_of = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(member_of) == group and state not in "ZX":
                return True
    return False
