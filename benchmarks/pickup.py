"""How soon an idle worker has a task that somebody adds, and what waiting costs it.

The time runs from the call that adds the task, in one process, until the claim is in the worker's hands, in another.
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from benchmarks import databases, markdown, meter
from benchmarks.contenders import CONTENDERS
from benchmarks.plan import Run
from benchmarks.processes import Child

TITLE = "Pick-up"

PAUSE_SECONDS = (0.05, 0.2)
"""Between two tasks, by chance; the worker is idle again long before."""

SETTLING_SECONDS = 1.0
"""After which a worker has nothing more to do with its own start."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One kind of worker."""

    database: str
    who: str
    p50: float
    """Milliseconds, as the next."""
    p95: float
    idle: float
    """Percent of a core that it takes while there is nothing to do."""
    server: float
    """And the database server meanwhile."""


def measure(run: Run) -> Iterator[Measured]:
    """Ours on each database, and PgQueuer beside it where it is installed."""
    for database in run.databases:
        yield _waited(run, database, "nexus")
        if database == "postgresql" and not CONTENDERS["pgqueuer"].missing():
            yield _waited(run, database, "pgqueuer")


def _waited(run: Run, database: str, contender: str) -> Measured:
    title, sizes = CONTENDERS[contender].title, run.sizes
    module = CONTENDERS[contender].where.partition(":")[0]
    server = databases.postmaster(run.postgres) if database == "postgresql" and run.postgres else None
    with (
        databases.fresh(database, run.postgres, "pickup") as url,
        Child(f"benchmarks.waiters.{module}:Waiter", url) as waiter,
        Child(f"benchmarks.waiters.{module}:Adder", url) as adder,
    ):
        run.say(f"{database}: {title} waits, and {sizes.picked_up} tasks come one by one")
        waiter.ask("ready")
        _picked_up(adder, waiter)  # the first of them opens connections
        time.sleep(SETTLING_SECONDS)
        idle = meter.shares([waiter.pid, *([server] if server else [])], sizes.idle_seconds)
        times = []
        for _ in range(sizes.picked_up):
            time.sleep(random.uniform(*PAUSE_SECONDS))
            times.append(_picked_up(adder, waiter))
    return Measured(database, title, median(times), quantiles(times, n=20)[18], idle[0], sum(idle[1:]))


def _picked_up(adder: Child, waiter: Child) -> float:
    began = float(adder.ask("add"))
    return (float(waiter.ask("picked")) - began) * 1000


def report(found: Sequence[Measured]) -> str:
    """A line a worker."""
    head = ("database", "worker", "p50, ms", "p95, ms", "idle, % of a core", "its server, %")
    rows = [
        (one.database, one.who, markdown.ms(one.p50), markdown.ms(one.p95), f"{one.idle:.2f}", f"{one.server:.2f}")
        for one in found
    ]
    return markdown.table(head, rows)
