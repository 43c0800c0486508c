"""The fleet: worker processes, each of which works a shift under Prefect, and is started again whenever it ends.

    python fleet.py FOLDER WORKERS

The workers are forks of this process, which has imported everything and opened nothing: one that was killed is back
within a moment. Each line that is printed is a JSON document: a worker was started, or has ended. A line on the
standard input tells all of them to hand back what they hold and to end; when it closes, they are killed. Half of the
workers show each attempt in Prefect, half only their shifts. Not a test itself.
"""

import asyncio
import json
import os
import random
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import handlers
from ledger import Ledger
from prefect.exceptions import TerminationSignal

from flows import process_agent_tasks

HANDS: Final = 4
GRACE_SECONDS: Final = 30.0
"""What a worker may take to hand back what it holds."""


class Supervisor:
    """Starts workers, and notes their ends."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder, self.places = folder, range(workers)
        self.at_work: dict[int, int] = {}
        """Places by process."""
        self.started = 0
        self.is_stopping = False

    def start(self, place: int) -> None:
        """Fork a worker: under the name of whoever was there before, or under a new one."""
        self.started += 1
        agent = random.choice([f"Agent-{place}", f"Agent-{place}-{self.started}"])
        observe = "task" if place % 2 == 0 else "shift"
        ledger = f"{self.started:04}.jsonl"
        pid = os.fork()
        if pid == 0:
            _as_worker(lambda: work(agent, observe, self.folder / ledger), self.folder / "workers.log")
        self.at_work[pid] = place
        tell("started", pid=pid, agent=agent, observe=observe, ledger=ledger)

    def bury(self) -> None:
        """Look who has ended, and start somebody else in their places."""
        while self.at_work:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            place = self.at_work.pop(pid)
            tell("ended", pid=pid, code=os.waitstatus_to_exitcode(status))
            if not self.is_stopping:
                self.start(place)

    def stop(self, number: int) -> None:
        """Nobody is started any more, and all that are there get this signal."""
        self.is_stopping = True
        for pid in self.at_work:
            os.kill(pid, number)

    def run(self) -> None:
        """Until they were told to stop, and have stopped."""
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for place in self.places:
            self.start(place)
        orders, deadline = [sys.stdin.fileno()], float("inf")
        while self.at_work:
            ready, _, _ = select.select([*orders, woken], [], [], 1.0)
            if woken in ready:
                os.read(woken, 1024)
            if orders and orders[0] in ready:
                if os.read(orders[0], 1024):
                    deadline = time.monotonic() + GRACE_SECONDS
                    self.stop(signal.SIGTERM)
                else:
                    orders, deadline = [], 0.0
            if time.monotonic() > deadline:
                self.stop(signal.SIGKILL)
            self.bury()


def tell(event: str, **what: Any) -> None:
    """One line."""
    os.write(1, (json.dumps({"event": event, "at": time.monotonic(), **what}) + "\n").encode())


def _as_worker(do: Callable[[], None], log: Path) -> None:
    """What a fork does, other than its parent; it never returns."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        said = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for here, there in ((nothing, 0), (said, 1), (said, 2)):
            os.dup2(here, there)
        with suppress(TerminationSignal):  # which is how a flow run is told to stop
            do()
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def work(agent: str, observe: Any, ledger: Path) -> None:
    """One shift, for as long as one lives."""
    handlers.register(Ledger(ledger))
    asyncio.run(process_agent_tasks(agent, concurrency=HANDS, mode="wait", observe=observe))


if __name__ == "__main__":
    Supervisor(Path(sys.argv[1]), int(sys.argv[2])).run()
