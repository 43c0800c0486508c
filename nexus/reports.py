"""What the sweep sees, does and says, as values: stalls, reports, notices, findings."""

from datetime import datetime
from typing import Any, Final, Literal

from nexus.schemas import HistoryEvent, Value
from nexus.states import TaskStatus, Verb
from nexus.values import Instant


class StallStep(Value):
    """One thing done about a stall, once."""

    step: str
    at: Instant
    detail: str
    told_at: Instant | None = None
    """Of a `notify`: when it was delivered."""


class Stall(Value):
    """One waiting period that passed its threshold, or one deadline that passed."""

    stall_id: int
    task_id: str
    kind: Literal["waiting", "deadline"]
    since: Instant
    """Since when the task waits, or its deadline."""
    why: str
    """What kept it from being claimed when the stall was opened."""
    opened_at: Instant
    closed_at: Instant | None
    closed_by: str | None
    """The verb that moved the task on."""
    policy: str
    next_step_at: Instant | None
    steps: tuple[StallStep, ...] = ()


class SweepItem(Value):
    """What one sweep did to one task."""

    task_id: str
    action: str
    """`log_only`, `notify`, `reassign`, `escalate`, `mark_stalled`, `fail` (steps of a ladder); `expire` (a lease),
    `time_out` (alive, but past its timeout), `overdue` (a deadline), `withdraw` (an escalation whose source moved
    on), `skip` (a row that cannot be read)."""
    detail: str
    waiting_seconds: float | None = None


class SweepReport(Value):
    """What one sweep found and did."""

    started_at: Instant
    finished_at: Instant
    scanned: int = 0
    """Tasks that it looked at: leases that are over, thresholds and deadlines that passed, steps that are due."""
    logged: int = 0
    notified: int = 0
    """Notifications put down; they are delivered by whoever can (`flows.sweep`)."""
    stalled: int = 0
    reassigned: int = 0
    escalated: int = 0
    """Escalation tasks made: for stalls and for deadlines."""
    expired: int = 0
    timed_out: int = 0
    withdrawn: int = 0
    """Escalations that were closed because their source had moved on."""
    failed: int = 0
    """Tasks that became dead letters: losses spent, time-outs spent, or the ladder's last step."""
    conflicts: int = 0
    """Candidates that had moved on, or that another sweep took, before this one could act."""
    skipped: int = 0
    """Rows that could not be read; `items` says what is wrong with each."""
    more: bool = False
    """The pass was full: the next one continues."""
    dry_run: bool = False
    """Nothing was written: this is what a sweep would do."""
    settings_hash: str = ""
    items: tuple[SweepItem, ...] = ()


class Sweep(Value):
    """One pass on record."""

    sweep_id: int
    source: str
    started_at: Instant
    finished_at: Instant
    scanned: int
    acted: int
    conflicts: int
    skipped: int
    more: bool
    settings_hash: str


class Waits(Value):
    """What a threshold would have meant for waiting periods on record."""

    periods: int = 0
    """Waiting periods: those on record, and those that go on now."""
    flagged: int = 0
    """Longer than the threshold: each would have opened a stall."""
    recovered: int = 0
    """Of the flagged: claimed all the same, nobody having been asked."""
    recovered_after_p50: float | None = None
    """How long after the threshold they were claimed, in seconds: half of them sooner than this."""
    recovered_after_p95: float | None = None
    recovered_after_max: float | None = None
    ended_otherwise: int = 0
    """Of the flagged: cancelled, blocked, marked as stalled, abandoned."""
    still_waiting: int = 0
    """Of the flagged: waiting now."""


class WhatIf(Value):
    """The recorded history, swept with other settings."""

    total: Waits
    by_type: dict[str, Waits]
    since: Instant | None
    """How far back the record was read; None is all of it."""


class Notice(Value):
    """Something that people are to be told: a task waits too long."""

    stall_id: int
    task_id: str
    task_type: str
    priority: int
    tags: tuple[str, ...]
    assigned_to: str | None
    episode_id: str | None
    since: Instant
    """Since when it waits."""
    at: Instant
    """When the sweep put the notice down."""
    why: str
    detail: str
    policy: str
    closed_by: str | None
    """The verb by which the task has moved on meanwhile."""


class PruneReport(Value):
    """What was forgotten, or would be."""

    started_at: Instant
    finished_at: Instant
    completed: int = 0
    """Tasks deleted that were completed."""
    failed: int = 0
    cancelled: int = 0
    attempts: int = 0
    """Rows that went with their tasks."""
    history: int = 0
    """Rows that went with their tasks, and old confirmations of agents."""
    stalls: int = 0
    sweeps: int = 0
    """Old passes of the sweep."""
    kept: int = 0
    """Tasks beyond their bounds that stay, because something that is not done yet needs them."""
    more: bool = False
    """The run was full: the next one continues."""
    dry_run: bool = False
    """Nothing was deleted: this is what would be."""

    @property
    def tasks(self) -> int:
        """All tasks that were deleted."""
        return self.completed + self.failed + self.cancelled


class Finding(Value):
    """Something that `nexus doctor` is not content with."""

    code: str
    message: str
    count: int = 1
    """How many tasks it is about, where it is about tasks."""


class Pause(Value):
    """A task type of which nothing is offered."""

    task_type: str
    """`*` is every type."""
    at: Instant
    actor: str | None
    reason: str | None


class Place(Value):
    """How far somebody has looked at what moves (`nexus.feed`)."""

    at: Instant
    line: int
    """A line of the history: all up to it were seen."""
    task: int
    """The `seq` of a task: all up to it were seen to arrive."""


class Move(HistoryEvent):
    """One move of a task, with what is to be known of the task and of the attempt that it belongs to."""

    task_id: str
    task_type: str
    tags: tuple[str, ...] = ()
    episode_id: str | None = None
    agent_id: str | None = None
    """Who held the task."""
    attempt: int | None = None
    run_ref: Any = None
    from_status: TaskStatus | None = None
    to_status: TaskStatus | None = None
    reason: str | None = None

    @property
    def key(self) -> tuple[str, int, str, datetime]:
        """What no two moves share."""
        return self.task_id, self.claim_no or 0, self.verb, self.at

    @property
    def order(self) -> tuple[datetime, str, int]:
        """When; of the moves that one transaction made, as they follow from one another."""
        return self.at, self.task_id, _FOLLOWS.get(self.verb, len(_FOLLOWS))


_FOLLOWS: Final = {"add": 0, "import": 0, Verb.CLAIM: 1, Verb.START: 2}


class News(Value):
    """What moved since the last look."""

    moves: tuple[Move, ...] = ()
    left_out: int = 0
    """Attempts that ended, lines of the history and new tasks that were too many to be told one by one."""
