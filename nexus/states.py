"""The states of a task, the verbs that move it, and the one table of legal moves.

Every guarded statement in `nexus.transitions` takes its WHERE clause from `TRANSITIONS`, the CHECKs in
`nexus.tables` take their values from the enums, and the README's table is compared with this one by a test.
"""

from dataclasses import dataclass
from enum import StrEnum


class TaskStatus(StrEnum):
    """Where a task stands. Each member says who moves it on."""

    PENDING = "pending"  # an agent claims it once it is claimable; the sweep watches how long that takes
    CLAIMED = "claimed"  # its holder starts it, or the lease ends and the sweep takes it back
    IN_PROGRESS = "in_progress"  # its holder completes, fails or releases it, or the lease ends
    BLOCKED = "blocked"  # whoever blocked it, or an operator, unblocks it
    IN_REVIEW = "in_review"  # a reviewer, never the agent who did it, approves or rejects
    COMPLETED = "completed"  # final
    FAILED = "failed"  # the dead letter: final for agents, an operator may retry it
    CANCELLED = "cancelled"  # final for agents, an operator may retry it
    STALLED = "stalled"  # waited too long under `mark_stalled`; an operator retries or cancels it


class AttemptOutcome(StrEnum):
    """How one try ended."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"  # alive, but past the task's `timeout_seconds`
    LOST = "lost"  # the lease ended: the process is gone, or cut off
    RELEASED = "released"  # handed back, or taken back by `block`
    CANCELLED = "cancelled"


class Verb(StrEnum):
    """What can be done to a task; each is one guarded statement in `nexus.transitions`."""

    CLAIM = "claim"
    START = "start"
    COMPLETE = "complete"
    FAIL = "fail"
    RELEASE = "release"
    EXPIRE = "expire"
    STALL = "stall"
    ABANDON = "abandon"
    APPROVE = "approve"
    REJECT = "reject"
    BLOCK = "block"
    UNBLOCK = "unblock"
    CANCEL = "cancel"
    RETRY = "retry"


TERMINAL = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})
"""Final for agents."""

HELD = frozenset({TaskStatus.CLAIMED, TaskStatus.IN_PROGRESS})
"""Somebody holds a claim, under a lease."""


@dataclass(frozen=True, slots=True)
class Move:
    """One row of the table: from which states a verb may start, and where it may lead."""

    sources: frozenset[TaskStatus]
    targets: frozenset[TaskStatus]
    fenced: bool = False
    """Only the holder of the current claim may do it; an older `claim_no` gets `ClaimLost`."""


def _states(*names: TaskStatus) -> frozenset[TaskStatus]:
    return frozenset(names)


_S = TaskStatus
TRANSITIONS: dict[Verb, Move] = {
    Verb.CLAIM: Move(_states(_S.PENDING), _states(_S.CLAIMED)),
    Verb.START: Move(_states(_S.CLAIMED), _states(_S.IN_PROGRESS), fenced=True),
    Verb.COMPLETE: Move(_states(_S.IN_PROGRESS), _states(_S.COMPLETED, _S.IN_REVIEW), fenced=True),
    Verb.FAIL: Move(_states(_S.IN_PROGRESS), _states(_S.PENDING, _S.FAILED), fenced=True),
    Verb.RELEASE: Move(HELD, _states(_S.PENDING), fenced=True),
    Verb.EXPIRE: Move(HELD, _states(_S.PENDING, _S.FAILED)),
    Verb.STALL: Move(_states(_S.PENDING), _states(_S.STALLED)),
    Verb.ABANDON: Move(_states(_S.PENDING, _S.STALLED), _states(_S.FAILED)),
    Verb.APPROVE: Move(_states(_S.IN_REVIEW), _states(_S.COMPLETED)),
    Verb.REJECT: Move(_states(_S.IN_REVIEW), _states(_S.PENDING)),
    Verb.BLOCK: Move(_states(_S.PENDING, *HELD), _states(_S.BLOCKED)),
    Verb.UNBLOCK: Move(_states(_S.BLOCKED), _states(_S.PENDING)),
    Verb.CANCEL: Move(frozenset(_S) - TERMINAL, _states(_S.CANCELLED)),
    Verb.RETRY: Move(_states(_S.FAILED, _S.STALLED, _S.CANCELLED), _states(_S.PENDING)),
}


OF_THE_SWEEP = frozenset({Verb.EXPIRE, Verb.STALL, Verb.ABANDON})
"""Nobody asks for these: time brings them."""


def verbs_from(status: TaskStatus) -> list[Verb]:
    """The verbs that somebody can ask for from `status`, in the order of the table."""
    return [verb for verb, move in TRANSITIONS.items() if status in move.sources and verb not in OF_THE_SWEEP]
