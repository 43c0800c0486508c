"""How the run of an attempt ends in Prefect: its colour and its name say what became of the task, its message why."""

from typing import Any, Final

from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Crashed, Failed

from flows.finished import Finished
from nexus import AttemptOutcome, TaskStatus

REFUSED: Final = "Refused"
"""The name of the quiet state of a run that was not given its task."""

AWAITING_RETRY: Final = "AwaitingRetry"
"""The name of the state of an attempt that failed, and whose task is offered again. (Red: the attempt did fail; what is
called Failed is a dead letter.)"""


def ending(task_id: str, done: Finished) -> State[Any] | None:
    """The state in which the run of an attempt ends; None is Prefect's own Completed.

    Raises what the handler raised, where that made the task a dead letter: its traceback stands in the run's log then.
    """
    about, said = f"attempt {done.number} at {task_id}", _said(done)
    match done.outcome:
        case AttemptOutcome.COMPLETED:
            return Completed(message="waits for a reviewer") if done.status == TaskStatus.IN_REVIEW else None
        case AttemptOutcome.LOST:
            return Crashed(message=f"{about} was lost{f': {said}' if said else ''}")
        case AttemptOutcome.RELEASED:
            return Cancelled(message=f"{about} was handed back")
        case AttemptOutcome.CANCELLED:
            return Cancelled(message=f"{about} ended: the task was cancelled")
    if done.status == TaskStatus.PENDING:
        return Failed(name=AWAITING_RETRY, message=why_again(done))
    raise done.error or RuntimeError(f"{about} {done.outcome}")


def why_again(done: Finished) -> str:
    """Why a task that was attempted is offered again, and when."""
    when = f"at {done.available_at:%H:%M:%S} UTC" if done.available_at else "later"
    return f"{_said(done) or done.outcome}; offered again {when}"


def _said(done: Finished) -> str:
    return str(done.error) if done.error else ""
