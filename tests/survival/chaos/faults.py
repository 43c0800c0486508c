"""What goes wrong, and when: workers are killed and frozen, PostgreSQL crashes, Prefect's server is away.

Each kind of fault has a thread of its own, so they meet in every way. When it is over each of them puts right what it
broke. The pace is that of the machine: nobody is killed or frozen before he works, and it goes on for as long as it
takes until enough has gone wrong.
"""

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from deployments.prefect_server import OwnServer

from ..server import Server
from .workers import Fleet, Worker

LEASE_SECONDS: Final = 3.0
FROZEN_SECONDS: Final = LEASE_SECONDS + 1.5
AFTERWARDS_SECONDS: Final = 2.0
"""Nobody kills who was just thawed: it is to come with what is too late."""

ENOUGH: Final = 1 / 3
"""Of what is planned, this share has to go wrong: on a busy machine everything takes longer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is to be done, and how much goes wrong meanwhile."""

    tasks: int
    seconds: float
    """For so long at least something goes wrong, and for so long tasks arrive."""
    kill_every: float
    """After the one before, as all of these."""
    crash_every: float
    """PostgreSQL."""
    freeze_every: float
    prefect_leaves_after: float
    prefect_stays_away: float
    """And then for as long as it takes to start."""
    patience_seconds: float
    """Within which enough has to go wrong."""
    peace_seconds: float
    """Within which everything has to end once nothing goes wrong any more."""


SHORT: Final = Plan(
    tasks=1000,
    seconds=15,
    kill_every=1,
    crash_every=3,
    freeze_every=2,
    prefect_leaves_after=3,
    prefect_stays_away=2,
    patience_seconds=90,
    peace_seconds=90,
)
LONG: Final = Plan(
    tasks=5000,
    seconds=60,
    kill_every=1,
    crash_every=10,
    freeze_every=3,
    prefect_leaves_after=20,
    prefect_stays_away=15,
    patience_seconds=180,
    peace_seconds=300,
)


@dataclass(slots=True)
class Faults:
    """What happens to one fleet, and what has happened."""

    plan: Plan
    fleet: Fleet
    prefect: OwnServer
    server: Server | None
    """PostgreSQL's."""
    kills: int = 0
    freezes: int = 0
    no_prefect: list[tuple[float, float]] = field(default_factory=list)
    """From when to when there was none."""
    no_database: list[tuple[float, float]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def happen(self, meanwhile: Callable[[], None]) -> None:
        """All of it, for as long as planned; returns when nothing is broken any more."""
        kinds = [meanwhile, self._kill, self._freeze, self._stop_prefect, *([self._crash] if self.server else [])]
        began = time.monotonic()
        with ThreadPoolExecutor(len(kinds)) as pool:
            try:
                happening = [pool.submit(kind) for kind in kinds]
                wait(happening, timeout=self.plan.seconds, return_when=FIRST_EXCEPTION)
                while not any(one.done() and one.exception() for one in happening) and self.too_few():
                    assert time.monotonic() < began + self.plan.patience_seconds, f"too little: {self.too_few()}"
                    time.sleep(0.1)
            finally:
                self._over.set()
            for one in happening:
                one.result()

    def too_few(self) -> dict[str, int]:
        """What has not yet happened often enough, and how often it has."""
        plan = self.plan
        planned = {
            "kills": (self.kills, plan.seconds / plan.kill_every),
            "crashes": (len(self.no_database), plan.seconds / plan.crash_every if self.server else 0),
            "freezes": (self.freezes, plan.seconds / (plan.freeze_every + FROZEN_SECONDS + AFTERWARDS_SECONDS)),
            "outages of Prefect": (len(self.no_prefect), 1),
        }
        return {name: times for name, (times, often) in planned.items() if times < ENOUGH * often}

    def _kill(self) -> None:
        while not self._over.wait(self.plan.kill_every * random.uniform(0.5, 1.5)):
            self.kills += self.fleet.kill()

    def _freeze(self) -> None:
        while not self._over.wait(self.plan.freeze_every):
            with self._spared() as worker:
                if worker is not None:
                    worker.signal(signal.SIGSTOP)
                    time.sleep(FROZEN_SECONDS)
                    worker.signal(signal.SIGCONT)
                    self.freezes += 1
                    self._over.wait(AFTERWARDS_SECONDS)

    def _crash(self) -> None:
        assert self.server is not None
        while not self._over.wait(self.plan.crash_every):
            gone = time.monotonic()
            self.server.stop("immediate")
            self.server.start()
            self.no_database.append((gone, time.monotonic()))

    def _stop_prefect(self) -> None:
        """Two who are at work are left alone meanwhile: nobody can begin now, and these are to go on."""
        if self._over.wait(self.plan.prefect_leaves_after):
            return
        assert self.prefect.process is not None
        with self._spared(observe="task"), self._spared(observe="shift"):
            gone = time.monotonic()
            self.prefect.process.signal(signal.SIGKILL, group=True)
            self.prefect.process.wait(10)
            self._over.wait(self.plan.prefect_stays_away)
            self.prefect.restart(lambda _: None, lambda: None)
            self.no_prefect.append((gone, time.monotonic()))

    @contextmanager
    def _spared(self, observe: str | None = None) -> Iterator[Worker | None]:
        """Somebody at work, whom no other fault befalls meanwhile; None where nobody worked until it was over."""
        while (worker := self.fleet.spare(observe)) is None:
            if self._over.wait(0.02):
                yield None
                return
        try:
            yield worker
        finally:
            worker.is_spared = False
