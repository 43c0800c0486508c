"""Ends the descendants of a program that left its process group: daemons, sessions and groups of their own.

Each run of a program has a mark of its own in its environment, which every descendant inherits. Where there is a
`/proc`, those that bear it are found and killed. One that took the mark out of its environment is not: whoever lets
strangers choose the program's code runs the agent in a container, whose end is theirs too (docs/security.md).
"""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

MARK: Final = "NEXUS_COMMAND_RUN"
"""The variable; its value is new for every run."""

_PROC: Final = Path("/proc")
_ROUNDS: Final = 5
"""A process may fork while it is being looked for."""


def new_mark() -> str:
    """The value of `MARK` for one run."""
    return uuid4().hex


def end_strays(mark: str) -> int:
    """Kill every process that bears this mark; how many were found."""
    found = 0
    for _ in range(_ROUNDS):
        ended = [pid for pid in _bearers(mark) if _kill(pid, mark)]
        found += len(ended)
        if not ended:
            break
    return found


def _bearers(mark: str) -> Iterator[int]:
    if not hasattr(os, "pidfd_open"):
        return
    for folder in _PROC.glob("[0-9]*"):
        pid = int(folder.name)
        if pid != os.getpid() and _bears(pid, mark):
            yield pid


def _bears(pid: int, mark: str) -> bool:
    with suppress(OSError):  # gone, or another user's
        return f"{MARK}={mark}".encode() in (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    return False


def _kill(pid: int, mark: str) -> bool:
    """Whether it was there to be killed; through a descriptor, so that no stranger with the same number is hit."""
    with suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            if _bears(pid, mark):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                return True
        finally:
            os.close(handle)
    return False
