"""CPU time of everybody who took part: a worker's own, and the server's, which works for all of them.

Wall time on a shared machine says more about the neighbours than about the program. CPU time they hardly touch.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


class Tree:
    """What a process and its children take, those who end included, from now on."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._own, self._ended = _look(pid)

    def taken(self) -> float:
        """CPU seconds since then."""
        own, ended = _look(self._pid)
        here = sum(seconds - self._own.get(member, 0.0) for member, seconds in own.items())
        known = sum(seconds for member, seconds in self._own.items() if member not in own)
        # Of who has ended the kernel tells in ticks, in which less may be left than was known before.
        return here + max(0.0, ended - self._ended - known)


def shares(pids: Sequence[int], seconds: float) -> list[float]:
    """The CPU, in percent of one core, that each process and its children take in the next `seconds`."""
    began, trees = time.monotonic(), [Tree(pid) for pid in pids]
    time.sleep(seconds)
    passed = time.monotonic() - began
    return [100 * tree.taken() / passed for tree in trees]


Member = tuple[int, str]
"""A process: its number, which may come again, and when it began."""


def _look(pid: int) -> tuple[dict[Member, float], float]:
    """The CPU seconds of each process of a tree, and those of all of its children that have ended."""
    while True:
        members = _members(pid)
        own = {(member, fields[19]): _own(member, fields) for member, fields in members.items()}
        ended = _ended(members)
        if ended == _ended(_members(pid)):  # or one that ended meanwhile is counted twice, or not at all
            return own, ended


def _members(pid: int) -> dict[int, list[str]]:
    stats = {int(folder.name): _stat(int(folder.name)) for folder in Path("/proc").iterdir() if folder.name.isdigit()}
    parents = {member: int(fields[1]) for member, fields in stats.items() if fields}
    wanted = {pid} & parents.keys()
    while more := {child for child, parent in parents.items() if parent in wanted} - wanted:
        wanted |= more
    return {member: stats[member] for member in wanted}


def _ended(members: Mapping[int, list[str]]) -> float:
    return sum(int(ticks) for fields in members.values() for ticks in fields[13:15]) / _TICKS


def _own(pid: int, fields: list[str]) -> float:
    """What a process took itself: to the nanosecond where the kernel tells it, which its ticks of 10 ms would hide."""
    try:
        threads = Path(f"/proc/{pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    except OSError:
        return sum(map(int, fields[11:13])) / _TICKS


def _stat(pid: int) -> list[str]:
    """The fields behind the name of the program, which may hold blanks; from the state on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
