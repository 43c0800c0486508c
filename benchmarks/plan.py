"""How much is measured: the short form, which fits into three minutes, and the long one, whose figures are kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from benchmarks.contenders import BATCH

CASES = ((1, BATCH), (4, BATCH), (1, 1), (4, 1))
"""Workers, and tasks at once."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the boards are, and how often each thing is done."""

    cases: Sequence[tuple[int, int]]
    """Of `throughput`: how many workers, and how many tasks at once."""
    rounds: int
    """In each the contenders take turns."""
    tasks: int
    """A round of `throughput` in batches."""
    singles: int
    """A round of `throughput` one at a time."""
    repetitions: int
    """Claims with their completion, of which `growth` tells the p50 and the p99."""
    pending: int
    """Tasks that can be claimed, and as many that are finished."""
    waiting: int
    """Tasks that cannot be claimed now: blocked dependants, or in backoff."""
    capabilities: int
    """Different ones, of one agent and of the tasks."""
    enqueued: int
    """Tasks added in one call."""
    imported: int
    """Tasks of a board file."""
    stalled: int
    """Tasks that a pass of the sweep acts on."""
    others: int
    """Tasks among which it finds them."""
    picked_up: int
    """Tasks that an idle worker picks up, one after another."""
    idle_seconds: float
    """How long a worker is watched that has nothing to do."""
    shift: int
    """Tasks of a shift that Prefect sees one by one."""


SHORT = Sizes(
    cases=CASES[:3],
    rounds=3,
    tasks=2_000,
    singles=200,
    repetitions=150,
    pending=20_000,
    waiting=10_000,
    capabilities=100,
    enqueued=10_000,
    imported=10_000,
    stalled=1_000,
    others=20_000,
    picked_up=20,
    idle_seconds=2,
    shift=200,
)
LONG = Sizes(
    cases=CASES,
    rounds=5,
    tasks=20_000,
    singles=2_000,
    repetitions=900,
    pending=1_000_000,
    waiting=100_000,
    capabilities=1_000,
    enqueued=10_000,
    imported=100_000,
    stalled=10_000,
    others=1_000_000,
    picked_up=100,
    idle_seconds=20,
    shift=1_000,
)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the benchmarks."""

    databases: Sequence[str]
    postgres: sa.URL | None
    """The server; None where only SQLite is measured."""
    sizes: Sizes
    contenders: Sequence[str]
    """Names in `benchmarks.contenders.CONTENDERS`, all of them installed."""
    say: Callable[[str], None]
    """Tells the user how far it is."""
