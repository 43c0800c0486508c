"""One pass of the sweep: 10,000 stalled (and 10,000 expired) among few or many that are not.

A pass is to cost what it acts on. So each measurement is made twice, on a board that holds nothing else and on one
with a million tasks that wait, but not too long; the ratio of the two is the figure. Memory is the peak of the
process over what it had before the pass.
"""

import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from benchmarks import databases, filling, markdown
from benchmarks.plan import Run
from nexus import NexusSettings, TaskMonitoringConfig, TaskNexus

TITLE = "One pass of the sweep"

ALL_BEGUN_AT_ONCE = 1_000
"""Claims in a transaction of those who then die."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One pass."""

    database: str
    what: str
    others: int
    acted: int
    seconds: float
    megabytes: float


def measure(run: Run) -> Iterator[Measured]:
    """Every pass on each database: among no others, then among many."""
    for database in run.databases:
        for others in (0, run.sizes.others):
            with databases.fresh(database, run.postgres, "sweep") as url:
                yield from _passes(run, database, url, others)


def _passes(run: Run, database: str, url: str, others: int) -> Iterator[Measured]:
    present, number = datetime.now(UTC), run.sizes.stalled
    settings = NexusSettings(database_url=url)
    with TaskNexus(url, settings=settings, clock=lambda: present) as nexus:
        run.say(f"{database}: filling a board with {others + 3 * number:,} tasks")
        if others:
            filling.pending(nexus, others, "waits", present - timedelta(minutes=30))
        filling.pending(nexus, number, "orphan", present - timedelta(minutes=40))
        nexus.register_agent("Dead")
        _lose(nexus, number, "orphan")
        filling.analysed(nexus)
        present += timedelta(seconds=120)
        config = TaskMonitoringConfig(max_per_sweep=number)
        yield _timed(nexus, database, f"{number:,} orphans back", others, config)
        filling.pending(nexus, number, "stalled", present - 2 * filling.HOUR)
        filling.pending(nexus, number, "lost", present - timedelta(minutes=40))
        _lose(nexus, number, "lost")
        filling.analysed(nexus)
        present += timedelta(seconds=120)
        steps = ("expire and log_only", "nothing new", "escalate", "mark_stalled", "fail")
        strategies = ("log_only", "log_only", "escalate", "mark_stalled", "fail")
        for what, strategy in zip(steps, strategies, strict=True):
            run.say(f"{database}: {what}, among {others:,} others")
            yield _timed(nexus, database, what, others, config.model_copy(update={"escalation_strategy": strategy}))


def _lose(nexus: TaskNexus, number: int, task_type: str) -> None:
    """Claim and begin tasks that nobody will end."""
    for _ in range(0, number, ALL_BEGUN_AT_ONCE):
        nexus.claim("Dead", ALL_BEGUN_AT_ONCE, task_types=[task_type], lease_seconds=60, start=True)


def _timed(nexus: TaskNexus, database: str, what: str, others: int, config: TaskMonitoringConfig) -> Measured:
    before = _peak()
    started = time.perf_counter()
    report = nexus.sweep(config)
    seconds = time.perf_counter() - started
    return Measured(database, what, others, len(report.items), seconds, _peak() - before)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(found: Sequence[Measured]) -> str:
    """A line a pass, the two boards side by side; `peak` is that of both."""
    head = ("database", "pass", "acted on", "alone, s", "among others, s", "ratio", "acts per s", "peak, MB")
    many = {(one.database, one.what): one for one in found if one.others}
    rows = []
    for one in found:
        if not one.others:
            among = many.get((one.database, one.what))
            rows.append(
                (
                    one.database,
                    one.what,
                    f"{one.acted:,}",
                    f"{one.seconds:.2f}",
                    f"{among.seconds:.2f}" if among else None,
                    markdown.ratio(among.seconds, one.seconds) if among else None,
                    f"{one.acted / one.seconds:,.0f}" if one.acted else None,
                    " / ".join(f"{each.megabytes:.0f}" for each in (one, among) if each),
                )
            )
    others = max(one.others for one in found)
    return f"The others are {others:,} tasks that wait, but not too long.\n\n{markdown.table(head, rows)}"
