"""A move of a task as a Prefect event: its name, whom it concerns, what is told. Pure: nothing is sent here.

The events' ids follow from the moves, so that one that is sent twice is one event.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any, Final
from uuid import UUID, uuid5

from prefect.events import Event, RelatedResource, Resource

from nexus.masking import Mask
from nexus.reports import Move
from nexus.states import TaskStatus

TASK: Final = "nexus.task"
"""What names of events and of their resources begin with: `nexus.task.completed` of `nexus.task.EP07-T3`."""

BOARD: Final = "nexus.board"

LEFT_OUT: Final = f"{BOARD}.moves-left-out"
"""The event that says how many moves were too many to be told one by one."""

_NAMED_BY_STATUS: Final = frozenset(
    {TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.IN_REVIEW, TaskStatus.BLOCKED}
)
_DONE: Final = {
    "add": "added",
    "import": "added",
    "claim": "claimed",
    "start": "started",
    "fail": "retrying",
    "expire": "lost",
    "release": "released",
    "stall": "marked_stalled",
    "reject": "rejected",
    "unblock": "unblocked",
    "retry": "retried",
    "reassign": "reassigned",
}
"""What was done by a verb that did not end the task's way through the board."""

_USUAL: Final = frozenset({"add", "import", "claim", "start"})

NAMES: Final = tuple(f"{TASK}.{name}" for name in dict.fromkeys((*_DONE.values(), *sorted(_NAMED_BY_STATUS))))
"""Every event of a task but `nexus.task.stalled`, which the sweep flow sends: a notice, not a move."""

MOST_TAGS: Final = 20
MOST_WORDS: Final = 1000
_NAMESPACE: Final = UUID("6a7c1e0a-53a5-4f0e-9c0e-3f3c2b3c8f6d")


def event_name(move: Move) -> str:
    """Where the task stands now, where that is an end or waits for a person; else what was done.

    An import brings what happened elsewhere: whatever its tasks have behind them, here they were added.
    """
    if move.verb != "import" and move.to_status in _NAMED_BY_STATUS:
        return f"{TASK}.{move.to_status}"
    return f"{TASK}.{_DONE.get(move.verb, move.verb)}"


def event_of(move: Move, mask: Mask) -> Event:
    """The event that tells of a move; secrets in its reason are masked."""
    reason = mask.text(move.reason)[:MOST_WORDS] if move.reason else None
    return Event(
        id=uuid5(_NAMESPACE, "\n".join(map(str, move.key))),
        # What one transaction did at one moment is told in the order in which it follows.
        occurred=move.at + timedelta(microseconds=move.order[-1]),
        event=event_name(move),
        resource=resource(TASK, move.task_id),
        related=[
            *concerned(move.task_type, move.agent_id, move.episode_id, move.tags),
            *_runs(move.run_ref),
        ],
        payload={
            "task_id": move.task_id,
            "task_type": move.task_type,
            "verb": move.verb,
            "from_status": move.from_status,
            "to_status": move.to_status,
            "actor": move.actor,
            "attempt": move.attempt,
            "claim_no": move.claim_no,
            "waited_seconds": move.waited_seconds,
            "reason": reason,
        },
    )


def left_out(number: int, last: Move | None) -> Event:
    """The event that stands for many."""
    payload = {"moves": number, "until": last.at.isoformat() if last else None}
    return Event(event=LEFT_OUT, resource=resource(BOARD, "board"), payload=payload)


def chosen(moves: Sequence[Move], room: int) -> tuple[list[Move], int]:
    """The moves that are told where there is room for so many, and how many are not.

    First goes what every task does anyway (it arrives, is claimed, begins), then what went well, the oldest first, then
    what went well with a tag, on which automations may wait; what is out of the ordinary is the last to go.
    """
    if len(moves) <= room:
        return list(moves), 0

    def weight(number: int) -> tuple[int, int]:
        move = moves[number]
        if move.to_status == TaskStatus.COMPLETED:
            return 1 + bool(move.tags), number
        return 0 if move.verb in _USUAL else 3, number

    kept = sorted(sorted(range(len(moves)), key=weight)[len(moves) - room :])
    return [moves[number] for number in kept], len(moves) - room


def run_id(ref: Any, name: str) -> UUID | None:
    """An id in an attempt's `run_ref`; None where whoever made it is none of Prefect's."""
    try:
        return UUID(str(ref[name])) if isinstance(ref, dict) and name in ref else None
    except ValueError:
        return None


def resource(kind: str, name: str) -> Resource:
    """What an event is about."""
    return Resource({"prefect.resource.id": f"{kind}.{name}", "prefect.resource.name": name})


def concerned(
    task_type: str, agent_id: str | None, episode_id: str | None, tags: Iterable[str]
) -> Iterator[RelatedResource]:
    """Whom and what an event about a task concerns, for filters and automations."""
    named = [("task-type", task_type), ("agent", agent_id), ("episode", episode_id)]
    named += [("tag", tag) for tag in islice(tags, MOST_TAGS)]
    for role, name in named:
        if name:
            yield RelatedResource(
                {
                    "prefect.resource.id": f"nexus.{role}.{name}",
                    "prefect.resource.role": role,
                    "prefect.resource.name": f"{role.removeprefix('task-')} {name}",  # as the event feed shows it
                }
            )


def _runs(ref: Any) -> Iterable[RelatedResource]:
    for role in ("flow-run", "task-run"):
        if number := run_id(ref, f"{role.replace('-', '_')}_id"):
            yield RelatedResource({"prefect.resource.id": f"prefect.{role}.{number}", "prefect.resource.role": role})
