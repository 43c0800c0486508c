"""What the record says in numbers, as values: how much was done, how long it waited, how long it took."""

from typing import Final

from nexus.schemas import Value
from nexus.states import AttemptOutcome
from nexus.values import Instant

BROUGHT_TO_AN_END: Final = (AttemptOutcome.COMPLETED, AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT)
"""Outcomes of which it means something how long the attempt took: the others end when somebody notices."""


class Spread(Value):
    """How some durations lie, in seconds; each by nearest rank, so a duration that was. None where there are none."""

    count: int = 0
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


class Work(Value):
    """What came of some attempts: all, those at one task type, those of one agent."""

    done: int = 0
    """Tasks whose last attempt was one of these, and that are completed."""
    completed: int = 0
    """Attempts that ended so; what a reviewer sends back is completed more than once."""
    failed: int = 0
    timed_out: int = 0
    lost: int = 0
    released: int = 0
    cancelled: int = 0
    running: int = 0
    """Attempts that go on now, whenever they began."""
    wait: Spread = Spread()
    """From when the task could be claimed until it was, of each attempt."""
    run: Spread = Spread()
    """Of the attempts that somebody brought to an end: completed, failed, timed out."""


class Figures(Value):
    """The board in numbers."""

    since: Instant | None
    """Attempts that ended before are left out; None is the whole record."""
    until: Instant
    episode_id: str | None
    status: dict[str, int]
    """Tasks in each status now, also those where there is none."""
    total: Work
    by_type: dict[str, Work]
    by_agent: dict[str, Work]


class Ended(Value):
    """The attempts at one task type that ended alike in some time; durations are sums of seconds."""

    task_type: str
    outcome: str
    attempts: int
    waits: int
    """Attempts of which it is known how long their tasks had waited."""
    wait_seconds: float
    wait_buckets: tuple[int, ...]
    """How many waited for no longer than each of the bounds."""
    run_seconds: float
    run_buckets: tuple[int, ...]


class Reading(Value):
    """What a meter reads: the present, and what ended since the reading before."""

    at: Instant
    until: Instant
    """Attempts count that ended until then: the next reading goes on from here."""
    status: dict[str, int]
    oldest_waiting: dict[str, float]
    """Of each type of which a task could be claimed, how long the first in line has waited, in seconds."""
    ended: tuple[Ended, ...]
    """None at the first reading, which only says where to begin."""
    sweep_age_seconds: float | None
    """Since the last sweep; None where there was none."""
    open_stalls: int
