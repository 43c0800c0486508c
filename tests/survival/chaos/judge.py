"""What must hold when everything is over, whatever went wrong before. Each judge yields what is wrong, in words."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, pairwise
from typing import Final

import sqlalchemy as sa

from nexus import Attempt, AttemptOutcome, Task, TaskNexus
from nexus.states import HELD, TERMINAL, TaskStatus, Verb

from .. import judge as of_the_board
from .ledger import Execution, executions
from .record import Record
from .workers import Worker

Wrongs = Iterator[tuple[str, str]]
"""A task, and what is wrong with it."""

UNDONE: Final = {
    AttemptOutcome.LOST,
    AttemptOutcome.FAILED,
    AttemptOutcome.TIMED_OUT,
    AttemptOutcome.RELEASED,
    AttemptOutcome.CANCELLED,
}
"""Attempts after which a task may be executed once more."""

MEANT: Final = ("Untold", "GiveUp", "TimeoutError")
"""What the tasks of the chaos fail of."""

OF_TIME: Final = ("sweep", "clock")
"""What the doctor says of the time, and of whoever has stopped to sweep."""


def nothing_is_missing(record: Record) -> Wrongs:
    """Every task that was added is there, and no other, but for the questions that the sweep asked about those."""
    for task_id in record.added - record.tasks.keys():
        yield task_id, "was added, and is gone"
    for task_id in record.tasks.keys() - record.added:
        if record.tasks[task_id].related_task_id not in record.added:
            yield task_id, "is there, and nobody has added it"


def nothing_is_held(record: Record) -> Wrongs:
    """Nobody holds anything any more, and nothing waits."""
    for task_id, task in record.tasks.items():
        if task.status in HELD:
            yield task_id, f"is {task.status}, and nobody is there any more"
        elif task.status not in TERMINAL:
            yield task_id, f"is {task.status}: it has not ended"


def all_ended_by_their_policies(record: Record) -> Wrongs:
    """Failures and losses are counted as they were, and a task is a dead letter where they were spent, not before."""
    for task_id, task in record.tasks.items():
        outcomes = [one.outcome for one in record.attempts[task_id]]
        failures = sum(one in (AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT) for one in outcomes)
        losses = outcomes.count(AttemptOutcome.LOST)
        if (failures, losses) != (task.failure_count, task.loss_count):
            counted = f"{task.failure_count} failures and {task.loss_count} losses are counted"
            yield task_id, f"{counted}, {failures} and {losses} are there"
        policy = task.retry_policy
        spent = failures >= policy.max_attempts or losses >= policy.max_losses
        gave_up = (task.error or "").startswith("GiveUp")
        for one in record.attempts[task_id]:
            if one.outcome == AttemptOutcome.FAILED and not (one.error or "").startswith(MEANT):
                yield task_id, f"failed of what it was not meant to: {one.error}"
        if task.status == TaskStatus.FAILED and not (spent or gave_up):
            yield task_id, f"is a dead letter after {failures} failures and {losses} losses"
        if task.status == TaskStatus.COMPLETED and spent:
            yield task_id, f"was completed after {failures} failures and {losses} losses"
        if task.status == TaskStatus.CANCELLED and task_id in record.added and not _lacks(record, task):
            yield task_id, "was cancelled, and nothing that it depends on has failed"


def _lacks(record: Record, task: Task) -> bool:
    """Something that it depends on will never be completed, and then it is to be cancelled."""
    status = {record.tasks[other].status for other in task.depends_on if other in record.tasks}
    return task.on_dependency_failure == "cancel" and not status.isdisjoint({TaskStatus.FAILED, TaskStatus.CANCELLED})


def results_are_those_of_the_winners(record: Record) -> Wrongs:
    """A completed task has the result of its one completed attempt, which was executed to its end."""
    for task_id, task in record.tasks.items():
        won = [one for one in record.attempts[task_id] if one.outcome == AttemptOutcome.COMPLETED]
        if len(won) != (task.status == TaskStatus.COMPLETED):
            yield task_id, f"is {task.status}, and {len(won)} of its attempts are completed"
        elif won:
            yield from _of_the_winner(record, task, won[0])
        for one in record.attempts[task_id]:
            if one.late_result is not None and one.late_result["claim"] != one.claim_no:
                yield task_id, f"what came late to claim {one.claim_no} is of claim {one.late_result['claim']}"


def _of_the_winner(record: Record, task: Task, won: Attempt) -> Wrongs:
    if task.result != won.result:
        yield task.task_id, f"has the result {task.result}, and attempt {won.number} had {won.result}"
        return
    returned = [
        one.name
        for one in record.executions.get(task.task_id, [])
        if (one.claim_no, one.attempt, one.agent_id, one.how) == (won.claim_no, won.number, won.agent_id, "returned")
    ]
    told = task.result or {}
    if returned != [told.get("execution")]:
        yield task.task_id, f"has a result of {told.get('execution')}, and returned has {returned}"
    needed = [record.tasks[other] for other in task.depends_on if other in record.tasks]
    after = {other.task_id: other.result["execution"] for other in needed if other.status == TaskStatus.COMPLETED}
    if told.get("after") != after:
        yield task.task_id, f"was given results {told.get('after')} of what it depends on, and those are {after}"


def claims_do_not_overlap(record: Record) -> Wrongs:
    """The next claim of a task is made when the one before it is over, and has a greater number."""
    for task_id, history in record.histories.items():
        events = sorted(history, key=lambda event: event.at)
        claims = [event for event in events if event.verb == Verb.CLAIM]
        for one, following in pairwise(claims):
            assert one.claim_no is not None
            assert following.claim_no is not None
            if following.claim_no <= one.claim_no:
                yield task_id, f"claim {following.claim_no} was made after claim {one.claim_no}"
                continue
            ends = [event.at for event in history if event.claim_no == one.claim_no and event.to_status not in HELD]
            if not ends:
                yield task_id, f"claim {following.claim_no} was made, and claim {one.claim_no} never ended"
            elif following.at < ends[0]:
                late = (ends[0] - following.at).total_seconds()
                yield task_id, f"claim {following.claim_no} was made {late:.6f} s before claim {one.claim_no} ended"


def histories_are_possible(record: Record) -> Wrongs:
    """Each move is one of the table of legal moves, and each attempt ended as its task moved."""
    for task_id, task in record.tasks.items():
        history = record.histories[task_id]
        for wrong in of_the_board.of_the_history(task, history, in_time=False):
            yield task_id, wrong
        for wrong in of_the_board.of_the_attempts(task, history, record.attempts[task_id]):
            yield task_id, wrong


def executions_are_explained(record: Record) -> Wrongs:
    """Each is that of an attempt, and only what came to nothing was done again."""
    for task_id, found in record.executions.items():
        by_claim: dict[int, list[Execution]] = {}
        for one in found:
            by_claim.setdefault(one.claim_no, []).append(one)
        for claim_no, executed in by_claim.items():
            if len(executed) > 1:
                yield task_id, f"was executed {len(executed)} times under claim {claim_no}"
        for one in found:
            if (attempt := record.attempt_of(one)) is None:
                yield task_id, f"was executed by {one.agent_id} under claim {one.claim_no}: no attempt explains that"
            elif wrong := _as_attempted(one, attempt):
                yield task_id, wrong
    for task_id, attempts in record.attempts.items():
        executed_under = {one.claim_no for one in record.executions.get(task_id, [])}
        for attempt in attempts:
            if attempt.outcome in (AttemptOutcome.COMPLETED, AttemptOutcome.FAILED) and (
                attempt.claim_no not in executed_under
            ):
                yield task_id, f"attempt {attempt.number} is {attempt.outcome}, and was never executed"


def _as_attempted(one: Execution, attempt: Attempt) -> str | None:
    """What is wrong between an execution and the attempt that it was."""
    if (one.attempt, one.agent_id) != (attempt.number, attempt.agent_id):
        return f"attempt {attempt.number} of {attempt.agent_id} was executed as {one.attempt} by {one.agent_id}"
    fits = {AttemptOutcome.COMPLETED: "returned", AttemptOutcome.FAILED: "raised"}.get(attempt.outcome, one.how)
    if one.how != fits or attempt.outcome not in {AttemptOutcome.COMPLETED, *UNDONE}:
        return f"attempt {attempt.number} is {attempt.outcome}, and its execution was {one.how or 'cut off'}"
    return None


def executions_overlap_only_where_one_was_given_up(record: Record) -> Wrongs:
    """Two at once are the work of one whom everybody took for dead, and of his successor.

    Who was frozen between his claim and its work may even begin after his successor: the older claim is his.
    """
    for task_id, found in record.executions.items():
        for earlier, later in combinations(found, 2):
            if later.began >= record.ended(earlier):
                continue
            older, newer = sorted((earlier, later), key=lambda one: one.claim_no)
            attempt = record.attempt_of(older)
            if attempt is None or not _was_given_up(record, attempt):
                outcome = "no attempt" if attempt is None else f"attempt {attempt.number}, {attempt.outcome}"
                yield task_id, f"was executed twice at once: by {newer.agent_id} during {outcome}"


def _was_given_up(record: Record, attempt: Attempt) -> bool:
    """By the sweep, that is: not by its own agent, who may be frozen."""
    return any(
        event.claim_no == attempt.claim_no and event.actor == "sweep" and event.verb in (Verb.EXPIRE, Verb.FAIL)
        for event in record.histories[attempt.task_id]
    )


JUDGES: Final[tuple[Callable[[Record], Wrongs], ...]] = (
    nothing_is_missing,
    nothing_is_held,
    all_ended_by_their_policies,
    results_are_those_of_the_winners,
    claims_do_not_overlap,
    histories_are_possible,
    executions_are_explained,
    executions_overlap_only_where_one_was_given_up,
)


def wrongs(record: Record) -> list[str]:
    """What any judge says, each with the story of the task."""
    return [
        f"{judge.__name__}: {task_id} {what}\n{record.story(task_id)}"
        for judge in JUDGES
        for task_id, what in judge(record)
    ]


def gave_up(workers: Sequence[Worker], stopped: float, excuses: Sequence[tuple[float, float]]) -> Iterator[str]:
    """Workers that ended by themselves: only who could not even begin may, where there was no server to speak to.

    `stopped`: when they were told to stop; from then on all of them end, and in time.
    """
    for worker in workers:
        if worker.ended is None:
            yield f"{worker} has not ended"
        elif worker.ended > stopped:
            if worker.code not in (0, -signal.SIGTERM):
                yield f"{worker} was told to stop, and did not in time"
        elif worker.code != -signal.SIGKILL:
            excused = any(gone < worker.ended and worker.started < back for gone, back in excuses)
            if executions(worker.ledger) or not excused:
                yield f"{worker} ended by itself after {worker.ended - worker.started:.1f} s"


def findings(nexus: TaskNexus) -> list[str]:
    """What the doctor finds, but for what is a matter of time."""
    return [f"{one.code}: {one.message}" for one in nexus.doctor() if one.code not in OF_TIME]


def connections_left(url: str, seconds: float = 10) -> list[str]:
    """Connections of a nexus that are still open on a PostgreSQL server, when there should be none any more.

    The server notices within a moment that a client is gone; for that long they are waited for.
    """
    statement = sa.text(
        "SELECT application_name || ': ' || coalesce(state, '') || ' ' || query FROM pg_stat_activity "
        "WHERE application_name LIKE 'nexus %'"
    )
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    deadline = time.monotonic() + seconds
    while True:
        with engine.connect() as connection:
            left = list(connection.execute(statement).scalars())
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)
