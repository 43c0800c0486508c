"""Whether a board's record can have happened: every history against the table of legal moves, and against the rest."""

from collections.abc import Iterator
from itertools import pairwise

from nexus import Attempt, Task, TaskNexus
from nexus.schemas import HistoryEvent
from nexus.states import HELD, TRANSITIONS, AttemptOutcome, TaskStatus, Verb

ENDS = {
    Verb.COMPLETE: {AttemptOutcome.COMPLETED},
    Verb.FAIL: {AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT},
    Verb.RELEASE: {AttemptOutcome.RELEASED},
    Verb.EXPIRE: {AttemptOutcome.LOST},
    Verb.BLOCK: {AttemptOutcome.RELEASED},
    Verb.CANCEL: {AttemptOutcome.CANCELLED},
}
"""How an attempt ends that was in progress when this was done to its task."""


def wrongs(nexus: TaskNexus) -> Iterator[str]:
    """Everything on the board that cannot be.

    On SQLite times never run backwards either. On PostgreSQL a move has the time at which its statement came, and that
    may then have waited for somebody else's.
    """
    in_time = nexus.url.startswith("sqlite")
    for finding in nexus.doctor():
        if finding.code not in ("sweep", "late_lease"):
            yield f"doctor: {finding.message}"
    attempts = nexus.attempts_by_task(task.task_id for task in nexus.get_all_tasks())
    for task in nexus.get_all_tasks():
        history = nexus.history(task.task_id)
        for wrong in (
            *of_the_history(task, history, in_time=in_time),
            *of_the_attempts(task, history, attempts.get(task.task_id, [])),
        ):
            yield f"{task.task_id}: {wrong}"


def of_the_history(task: Task, history: list[HistoryEvent], *, in_time: bool) -> Iterator[str]:
    """Each move is legal and begins where the one before it ended; the last one ends where the task stands."""
    first, *rest = history
    if (first.verb, first.to_status, first.claim_no) != ("add", TaskStatus.PENDING, 0):
        yield f"it begins with {first}"
    for before, event in pairwise(history):
        if event.from_status != before.to_status:
            yield f"{event.verb} found it {event.from_status}, but {before.verb} had left it {before.to_status}"
        if in_time and event.at < before.at:
            yield f"{event.verb} was before {before.verb}"
        taken = event.verb == Verb.CLAIM
        if event.claim_no != before.claim_no + taken:
            yield f"{event.verb} under claim {event.claim_no} after claim {before.claim_no}"
    for event in rest:
        if event.verb == "reassign":
            if not event.from_status == event.to_status == TaskStatus.PENDING:
                yield f"reassigned while {event.from_status}"
            continue
        move = TRANSITIONS[Verb(event.verb)]
        if event.from_status not in move.sources or event.to_status not in move.targets:
            yield f"{event.verb} led from {event.from_status} to {event.to_status}"
    if (history[-1].to_status, history[-1].claim_no) != (task.status, task.claim_no):
        yield f"it is {task.status} under claim {task.claim_no}, but the last of its history is {history[-1]}"
    if (task.status in HELD) != (task.lease_expires_at is not None):
        yield f"it is {task.status}, and its lease ends at {task.lease_expires_at}"


def of_the_attempts(task: Task, history: list[HistoryEvent], attempts: list[Attempt]) -> Iterator[str]:
    """One attempt a start, of the same claim, ended as its task's next move says, never two at once."""
    starts = [at for at, event in enumerate(history) if event.verb == Verb.START]
    if [history[at].claim_no for at in starts] != [one.claim_no for one in attempts]:
        yield f"starts and attempts differ: {len(starts)}, {len(attempts)}"
        return
    if [one.number for one in attempts] != list(range(1, task.attempt_count + 1)):
        yield f"{task.attempt_count} attempts are counted, {[one.number for one in attempts]} are there"
    for earlier, later in pairwise(attempts):
        if earlier.finished_at is None or later.started_at < earlier.finished_at:
            yield f"attempts {earlier.number} and {later.number} were at work at the same time"
    for at, attempt in zip(starts, attempts, strict=True):
        last = at + 1 == len(history)
        ends = {AttemptOutcome.RUNNING} if last else ENDS.get(Verb(history[at + 1].verb), set())
        if attempt.outcome not in ends:
            yield f"attempt {attempt.number} is {attempt.outcome} after {'its start' if last else history[at + 1].verb}"
    won = [one.result for one in attempts if one.outcome == AttemptOutcome.COMPLETED]
    if task.status == TaskStatus.COMPLETED and won[-1:] != [task.result]:
        yield "its result is not that of its last completed attempt"
