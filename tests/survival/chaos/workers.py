"""The fleet as the test has it in hand: who is at work, who was killed or frozen, and that all of them are gone."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .ledger import executions

PROGRAM: Final = Path(__file__).with_name("fleet.py")
STOPPING_SECONDS: Final = 60.0


@dataclass(slots=True)
class Worker:
    """One process."""

    pid: int
    agent: str
    observe: str
    ledger: Path
    started: float
    ended: float | None = None
    code: int | None = None
    is_spared: bool = False
    """Nobody is to kill or freeze it now."""
    is_doomed: bool = False
    """It was killed; that it has ended is known a moment later."""

    @property
    def has_worked(self) -> bool:
        """It has executed something: whoever is killed before has nothing to lose."""
        return self.ledger.exists()

    @property
    def is_at_work(self) -> bool:
        """It executes something at this moment, as far as its ledger tells."""
        return any(one.ended is None for one in executions(self.ledger))

    def signal(self, number: int) -> None:
        """Send it a signal. Its supervisor waits for it, so that nobody else can have its number meanwhile."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Fleet:
    """Starts `fleet.py`, and keeps what it says."""

    def __init__(self, folder: Path, workers: int, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.workers: list[Worker] = []
        """All that ever were, in the order of their start."""
        self.stopped = float("inf")
        """When they were told to stop."""
        self._by_pid: dict[int, Worker] = {}
        self._lock = threading.Lock()
        with (folder / "fleet.log").open("ab") as log:
            self._program = subprocess.Popen(
                [sys.executable, str(PROGRAM), str(folder), str(workers)],
                env=environment,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._program.stdout is not None
        for line in self._program.stdout:
            self._note(json.loads(line))

    def _note(self, said: dict[str, Any]) -> None:
        with self._lock:
            if said["event"] == "started":
                ledger = self.folder / said["ledger"]
                worker = Worker(said["pid"], said["agent"], said["observe"], ledger, said["at"])
                self.workers.append(worker)
                self._by_pid[worker.pid] = worker
            else:
                worker = self._by_pid.pop(said["pid"])
                worker.ended, worker.code = said["at"], said["code"]

    def kill(self) -> bool:
        """Kill somebody who has worked, and is not spared; whether there was one."""
        with self._lock:
            able = [one for one in self._by_pid.values() if one.has_worked and not (one.is_spared or one.is_doomed)]
            if able:
                doomed = random.choice(able)
                doomed.is_doomed = True
                doomed.signal(signal.SIGKILL)
            return bool(able)

    def spare(self, observe: str | None = None) -> Worker | None:
        """Choose somebody who is at work, and spare it from now on."""
        with self._lock:
            here = [one for one in self._by_pid.values() if not (one.is_spared or one.is_doomed)]
            able = [one for one in here if observe in (None, one.observe)]
            for worker in random.sample(able, len(able)):
                if worker.is_at_work:
                    worker.is_spared = True
                    return worker
        return None

    def stop(self) -> None:
        """Tell all to hand back what they hold; they are gone when this returns."""
        assert self._program.stdin is not None
        self.stopped = time.monotonic()
        self._program.stdin.write(b"stop\n")
        self._program.stdin.flush()
        self._program.wait(STOPPING_SECONDS)
        self._reader.join(10)

    def close(self) -> None:
        """Whatever happened: nobody is left."""
        if self._program.returncode != 0:
            with suppress(ProcessLookupError):
                os.killpg(self._program.pid, signal.SIGKILL)  # all of them, frozen or not
            self._program.wait()
        self._reader.join(10)
        for stream in (self._program.stdin, self._program.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()

    def last_words(self, lines: int = 30) -> str:
        """What the workers said last, for a message."""
        said = [path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log"))]
        return "\n".join("".join(said).splitlines()[-lines:])
