"""How a run ends in Prefect: its colour and its name say what became of its task, its message why."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, ParamSpec, TypeVar

from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled, Completed, Crashed, Failed

from flows.finished import Finished
from flows.signals import stopped_in_order
from nexus import AttemptOutcome, TaskStatus

P = ParamSpec("P")
T = TypeVar("T")

STOPS: Final = (asyncio.CancelledError, KeyboardInterrupt, TerminationSignal)
"""How a stop from outside comes up in the code of a run: Ctrl-C, a signal, a caller who cancels."""

STOPPED: Final = "stopped: it was told to stop, and hands back what it holds"
HANDED_BACK: Final = "handed back: its agent stopped"

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


async def handed_back() -> State[Any]:
    """The state of an attempt whose agent was stopped, and whose task was given back. Left to itself Prefect takes
    every stop for a crash, and an ordinary Ctrl-C would look like an outage."""
    await _collect_stops()
    return Cancelled(message=HANDED_BACK)


def stops_in_order(flow: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """A flow that hands back what it holds when it is stopped, and whose run is Cancelled then, not Crashed.

    Whoever awaits it gets the stop all the same; who asks Prefect for the state (`return_state=True`) gets that, and
    has to look whether it is Cancelled.
    """

    @functools.wraps(flow)
    async def stoppable(*given: P.args, **named: P.kwargs) -> T:
        try:
            with stopped_in_order():
                return await flow(*given, **named)
        except STOPS as stop:
            if _is_left_to_prefect():
                raise
            await _collect_stops()
            # Prefect raises the data again, to whoever does not ask for the state.
            state: Any = Cancelled(message=STOPPED, data=stop)
            return state  # type: ignore[no-any-return] # as `ended_well`

    return stoppable


async def _collect_stops() -> None:
    """A stop that came a second time while the work was handed back strikes here, and not while Prefect is told."""
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)


def _is_left_to_prefect() -> bool:
    """Its runner has said what is to become of the run: cancelled in the UI, or to be done again elsewhere."""
    try:
        from prefect._internal.control_listener import get_intent  # there is no public way to ask
    except ImportError:
        return False
    return get_intent() is not None
