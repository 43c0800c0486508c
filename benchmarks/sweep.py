"""One pass of the sweep: 10,000 stalled (and 10,000 expired) among few or many that are not.

A pass is to cost what it acts on. So each measurement is made twice, on a board that holds nothing else and on one
with a million tasks that wait, but not too long; the ratio of the two is the figure. Memory is the peak of the
process over what it had before the pass.
"""

import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks import databases, filling
from nexus import NexusSettings, TaskMonitoringConfig, TaskNexus


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the boards are."""

    stalled: int = 10_000
    others: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Measured:
    """One pass."""

    database: str
    what: str
    others: int
    acted: int
    seconds: float
    megabytes: float


def measure(name: str, postgres: Any, sizes: Sizes, say: Callable[[str], None]) -> Iterator[Measured]:
    """Every pass on one database: among no others, then among many."""
    for others in (0, sizes.others):
        with databases.fresh(name, postgres) as url:
            yield from _passes(name, url, sizes.stalled, others, say)


def _passes(name: str, url: str, stalled: int, others: int, say: Callable[[str], None]) -> Iterator[Measured]:
    present = datetime.now(UTC)
    settings = NexusSettings(database_url=url)
    with TaskNexus(url, settings=settings, clock=lambda: present) as nexus:
        say(f"{name}: filling a board with {others + 2 * stalled:,} tasks")
        if others:
            filling.pending(nexus, others, "waits", present - timedelta(minutes=30))
        filling.pending(nexus, stalled, "stalled", present - 2 * filling.HOUR)
        filling.pending(nexus, stalled, "lost", present - timedelta(minutes=40))
        nexus.register_agent("Dead")
        _lose(nexus, stalled)
        filling.analysed(nexus)
        present += timedelta(seconds=120)
        config = TaskMonitoringConfig(max_per_sweep=stalled)
        steps = ("expire and log_only", "nothing new", "escalate", "mark_stalled", "fail")
        strategies = ("log_only", "log_only", "escalate", "mark_stalled", "fail")
        for what, strategy in zip(steps, strategies, strict=True):
            say(f"{name}: {what}, among {others:,} others")
            yield _timed(nexus, name, what, others, config.model_copy(update={"escalation_strategy": strategy}))


def _lose(nexus: TaskNexus, number: int) -> None:
    """Claim and start tasks that nobody will end."""
    for _ in range(0, number, 1000):
        for claim in nexus.claim("Dead", 1000, task_types=["lost"], lease_seconds=60):
            nexus.start(claim)


def _timed(nexus: TaskNexus, name: str, what: str, others: int, config: TaskMonitoringConfig) -> Measured:
    before = _peak()
    started = time.perf_counter()
    report = nexus.sweep(config)
    seconds = time.perf_counter() - started
    return Measured(name, what, others, len(report.items), seconds, _peak() - before)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(found: list[Measured]) -> str:
    """Markdown: a line a pass, the two boards side by side."""
    lines = ["| database | pass | acted on | alone, s | among others, s | ratio | acts per s | peak, MB |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    alone = {(one.database, one.what): one for one in found if not one.others}
    for one in found:
        if one.others:
            base = alone[one.database, one.what]
            rate = f"{one.acted / one.seconds:,.0f}" if one.acted else ""
            lines.append(
                f"| {one.database} | {one.what} | {one.acted:,} | {base.seconds:.2f} | {one.seconds:.2f} "
                f"| {one.seconds / base.seconds:.2f} | {rate} | {base.megabytes:.0f} / {one.megabytes:.0f} |"
            )
    return "\n".join(lines)
