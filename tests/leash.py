"""Ends what tests have started, once their own process is gone: also where it was killed and could end nothing itself.

    python leash.py

The first line of the standard input is a folder. When the input closes, whoever has that folder in its environment or
in its command is killed. Not a test itself.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .deployments.live import ROOT, end_processes_of, processes_of


@contextmanager
def leashed(folder: Path) -> Iterator[None]:
    """Nobody that belongs to this folder outlives the block, or this process."""
    # A session of its own: what interrupts the tests does not interrupt it. The folder is no argument: it is not to
    # find itself.
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, text=True, start_new_session=True) as leash:
        assert leash.stdin is not None
        print(folder, file=leash.stdin, flush=True)
        yield


def main() -> None:
    """Wait, and end them all: also whoever is started by one of them meanwhile."""
    folder = Path(sys.stdin.readline().rstrip("\n"))
    sys.stdin.read()
    while processes_of(folder):
        end_processes_of(folder)


if __name__ == "__main__":
    main()
