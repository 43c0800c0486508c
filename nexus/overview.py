"""The board at a glance, as a value: what stands on it, who works, and what came of the last hour."""

from nexus.reports import Pause, Stall, Sweep
from nexus.schemas import Value
from nexus.states import AttemptOutcome, TaskStatus
from nexus.values import Instant


class Waiting(Value):
    """The tasks of one type that wait for nothing but time and an agent."""

    task_type: str
    number: int
    claimable: int
    """Those whose time has come. (A backoff is not over, or a start lies ahead, of the others.)"""
    oldest_id: str
    """The one that has been claimable for longest, or will be first."""
    oldest_since: Instant
    """Since when that one is claimable, or when it will be."""
    is_paused: bool = False
    """Nothing of the type is offered."""


class AgentAtWork(Value):
    """An agent that holds something, or was seen in the window."""

    agent_id: str
    live_claims: int
    task_ids: tuple[str, ...] = ()
    """A few of the tasks that it holds, the oldest claims first."""
    last_seen_at: Instant | None


class Ended(Value):
    """What came of the attempts at one type of task that ended in the window."""

    task_type: str
    attempts: dict[AttemptOutcome, int]
    """By outcome; absent: none."""
    dead_letters: int = 0
    """Tasks of the type that ended failed in the window, and still stand so."""

    def number(self, *outcomes: AttemptOutcome) -> int:
        """How many attempts ended in one of these ways."""
        return sum(self.attempts.get(outcome, 0) for outcome in outcomes)


class Slice(Value):
    """A part of the window: so many attempts ended in it."""

    until: Instant
    completed: int = 0
    failed: int = 0
    """Failed, timed out or lost."""


class Overview(Value):
    """The board at one moment, and what happened in the window before it."""

    at: Instant
    window_seconds: float
    counts: dict[TaskStatus, int]
    """Tasks by status; absent: none."""
    waiting: tuple[Waiting, ...] = ()
    """By type, the one with the oldest task first."""
    waits_for_others: int = 0
    """Pending tasks with dependencies that are not completed."""
    agents: tuple[AgentAtWork, ...] = ()
    idle_agents: int = 0
    """Agents that are known, hold nothing and were not seen in the window."""
    ended: tuple[Ended, ...] = ()
    """By type."""
    slices: tuple[Slice, ...] = ()
    """The window in equal parts, the oldest first."""
    open_stalls: int = 0
    stalls: tuple[Stall, ...] = ()
    """The oldest of them."""
    expired_leases: int = 0
    """Claims whose lease is over, which no sweep has taken back yet."""
    last_sweep: Sweep | None = None
    pauses: tuple[Pause, ...] = ()

    def number(self, *outcomes: AttemptOutcome) -> int:
        """How many attempts, of all types, ended in one of these ways in the window."""
        return sum(one.number(*outcomes) for one in self.ended)

    @property
    def dead_letters(self) -> int:
        """Tasks, of all types, that ended failed in the window."""
        return sum(one.dead_letters for one in self.ended)
