"""CPU time of everybody who took part: a worker's own, and the server's, which works for all of them.

Wall time on a shared machine says more about the neighbours than about the program. CPU time they hardly touch.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def of_tree(pid: int) -> float:
    """CPU seconds of a process, of its children, and of those of them that have ended."""
    total = 0.0
    parents = _parents()
    wanted = {pid}
    while more := {child for child, parent in parents.items() if parent in wanted} - wanted:
        wanted |= more
    for member in wanted:
        fields = _stat(member)
        if fields:
            total += _own(member, fields) + sum(map(int, fields[13:15])) / _TICKS
    return total


def shares(pids: Sequence[int], seconds: float) -> list[float]:
    """The CPU, in percent of one core, that each process and its children take in the next `seconds`."""
    began, before = time.monotonic(), [of_tree(pid) for pid in pids]
    time.sleep(seconds)
    passed = time.monotonic() - began
    return [100 * (of_tree(pid) - was) / passed for pid, was in zip(pids, before, strict=True)]


def _own(pid: int, fields: list[str]) -> float:
    """What a process took itself: to the nanosecond where the kernel tells it, which its ticks of 10 ms would hide."""
    try:
        threads = Path(f"/proc/{pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    except OSError:
        return sum(map(int, fields[11:13])) / _TICKS


def _parents() -> dict[int, int]:
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            found[int(folder.name)] = int(fields[1])
    return found


def _stat(pid: int) -> list[str]:
    """The fields behind the name of the program, which may hold blanks; from the state on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
