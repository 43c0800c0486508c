"""CPU time of everybody who took part: a worker's own, and the server's, which works for all of them.

Wall time on a shared machine says more about the neighbours than about the program. CPU time they hardly touch.
"""

import os
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
            own, waited_for = sum(map(int, fields[11:13])), sum(map(int, fields[13:15]))
            total += (own + waited_for) / _TICKS
    return total


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
