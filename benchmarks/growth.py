"""How the cost of one claim and completion grows with what else is on the board.

Boards lie side by side, and are worked on in turn, one task each and in an order by chance, so that what the neighbours
do, and what a board leaves to the one after it, meets them alike. The figure is the ratio of a board's times to those
of the small one: p50 and p99.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from statistics import median, quantiles

from benchmarks import databases, filling, markdown
from benchmarks.plan import Run, Sizes
from nexus import NexusSettings, TaskNexus

TITLE = "Growth"

FEW = 1_000
"""Tasks that can be claimed, on the small board and beside whatever else is on the others."""

WARM = 25
"""Claims that are not counted."""

AGENT = "Agent-1"


@dataclass(frozen=True, slots=True)
class Measured:
    """One board."""

    database: str
    beside: str
    """What is on it."""
    p50: float
    """Milliseconds, as the next."""
    p99: float


Fill = Callable[[TaskNexus, Sizes], str]
"""Fills a board, and says with what."""


def _few(nexus: TaskNexus, _sizes: Sizes) -> str:
    filling.pending(nexus, FEW, "noop", nexus.now())
    return f"{FEW:,} pending"


def _many(nexus: TaskNexus, sizes: Sizes) -> str:
    filling.pending(nexus, sizes.pending, "noop", nexus.now())
    filling.finished(nexus, sizes.pending, "finished")
    return f"{sizes.pending:,} pending, {sizes.pending:,} finished"


def _blocked(nexus: TaskNexus, sizes: Sizes) -> str:
    filling.blocked(nexus, sizes.waiting, "blocked")
    return f"{_few(nexus, sizes)}, {sizes.waiting:,} blocked dependants"


def _in_backoff(nexus: TaskNexus, sizes: Sizes) -> str:
    filling.in_backoff(nexus, sizes.waiting, "later", nexus.now() + timedelta(hours=1), "medium")
    return f"{_few(nexus, sizes)}, {sizes.waiting:,} in backoff"


def _urgent_in_backoff(nexus: TaskNexus, sizes: Sizes) -> str:
    filling.in_backoff(nexus, sizes.waiting, "later", nexus.now() + timedelta(hours=1), "high")
    return f"{_few(nexus, sizes)}, {sizes.waiting:,} more urgent ones in backoff"


def _for_another(nexus: TaskNexus, sizes: Sizes) -> str:
    asked = {"task_type": "noop", "description": "one of many", "priority": "high", "assigned_to": "Agent-9"}
    filling.copies(nexus, nexus.add_task(asked).task_id, sizes.waiting, "others")
    return f"{_few(nexus, sizes)}, {sizes.waiting:,} more urgent ones for another agent"


def _beyond_it(nexus: TaskNexus, sizes: Sizes) -> str:
    asked = {"task_type": "noop", "description": "one of many", "priority": "high"}
    each = [asked | {"required_capabilities": [f"skill-{n}"]} for n in range(sizes.capabilities)]
    for task_id in nexus.add_tasks(each):
        filling.copies(nexus, task_id, sizes.waiting // sizes.capabilities, f"{task_id}-")
    return f"{_few(nexus, sizes)}, {sizes.waiting:,} more urgent ones that ask for {sizes.capabilities:,} other skills"


def _capable(nexus: TaskNexus, sizes: Sizes) -> str:
    able = [f"skill-{n}" for n in range(sizes.capabilities)]
    nexus.register_agent(AGENT, able)
    nexus.add_tasks(
        [{"task_type": "noop", "required_capabilities": [able[n % len(able)]], "payload": {"n": 1}} for n in range(FEW)]
    )
    return f"{FEW:,} pending, {sizes.capabilities:,} capabilities"


BOARDS: tuple[Fill, ...] = (_few, _many, _blocked, _in_backoff, _urgent_in_backoff, _for_another, _beyond_it, _capable)
"""The first is what the others are compared with."""


def measure(run: Run) -> Iterator[Measured]:
    """All boards of one database, then all of the other."""
    for database in run.databases:
        with ExitStack() as stack:
            boards: dict[str, TaskNexus] = {}
            for place, fill in enumerate(BOARDS):
                url = stack.enter_context(databases.fresh(database, run.postgres, f"growth{place}"))
                nexus = stack.enter_context(TaskNexus(url, settings=NexusSettings(database_url=url)))
                said = fill(nexus, run.sizes)
                run.say(f"{database}: a board with {said}")
                databases.settle(url)
                boards[said] = nexus
            run.say(f"{database}: {run.sizes.repetitions} claims and completions on each")
            times = _in_turn(boards, run.sizes.repetitions)
        yield from (Measured(database, said, median(of), quantiles(of, n=100)[98]) for said, of in times.items())


def _in_turn(boards: dict[str, TaskNexus], repetitions: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {said: [] for said in boards}
    for turn in range(WARM + repetitions):
        for said, nexus in random.sample(list(boards.items()), len(boards)):
            began = time.perf_counter()
            (claim,) = nexus.claim(AGENT, start=True)
            nexus.complete(claim)
            if turn >= WARM:
                times[said].append((time.perf_counter() - began) * 1000)
    return times


def report(found: Sequence[Measured]) -> str:
    """A line a board."""
    head = ("database", "on the board", "p50, ms", "ratio", "p99, ms", "ratio")
    small = {one.database: one for one in reversed(found)}
    rows = [
        (
            one.database,
            one.beside,
            markdown.ms(one.p50),
            markdown.ratio(one.p50, small[one.database].p50),
            markdown.ms(one.p99),
            markdown.ratio(one.p99, small[one.database].p99),
        )
        for one in found
    ]
    return markdown.table(head, rows)
