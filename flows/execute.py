"""`execute_task`: one task, one flow run; each attempt is a run of one Prefect task, retried as its policy says."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any

from prefect import flow, runtime, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from flows.board import board
from flows.handlers import runnable_types
from flows.observe import ended_well, run_log, run_ref, tag_flow_run
from flows.runner import Finished, NoHandler, run_attempt
from flows.threads import taken
from nexus import AttemptOutcome, Claim, Task, TaskNexus, TaskStatus
from nexus.errors import IllegalTransition, NotClaimable, TaskNotFound
from nexus.retry import backoff_seconds

AgentId = Annotated[str, Field(min_length=1)]


class Refused(Exception):
    """The claim was refused: somebody else has the task, or it is not to be had now. Not a failure."""


class AttemptLost(Exception):
    """The claim went to somebody else, or the task was cancelled, while it was worked on."""


@dataclass(slots=True)
class _Execution:
    """What the attempts of one flow run share; Prefect's task runs get ids only."""

    nexus: TaskNexus
    again: bool = False
    """What the nexus decided after the last attempt; Prefect obeys."""


_execution: ContextVar[_Execution] = ContextVar("execution")


@flow(name="execute-task", flow_run_name="{task_id} · {agent_id}")
async def execute_task(task_id: str, agent_id: AgentId = "prefect") -> bool:
    """Claim a task, execute it, complete it; failed attempts are retried as the task's policy says.

    Returns True when it was completed (or handed to review), False when the claim was refused: somebody else
    has it, it has ended, or it is not claimable now; the run then shows a quiet `Refused`.

    Args:
        task_id: The task to execute.
        agent_id: In whose name it is claimed.

    Raises what the handler raised in the last attempt, when the task ends failed: the run is red. Raises
    `TaskNotFound`, `AgentNotConfirmed`, `NoHandler`; cancelling the run stops the work and releases the task.
    """
    nexus = board()
    await tag_flow_run(agent_id=agent_id)
    await asyncio.to_thread(nexus.confirm_agent, agent_id)
    found = await asyncio.to_thread(nexus.get_task_by_id, task_id)
    if found is None:
        raise TaskNotFound(task_id)
    if found.task_type not in runnable_types(nexus.settings):
        raise NoHandler(task_id, found.task_type)
    execution = _Execution(nexus)
    delays = retry_delays(found)
    attempt = _attempt.with_options(
        retries=len(delays),
        retry_delay_seconds=delays,
        retry_condition_fn=_offered_again(execution),
    )
    token = _execution.set(execution)
    try:
        await attempt(task_id, agent_id)
    except Refused as refused:
        return ended_well(False, str(refused), name="Refused")
    finally:
        _execution.reset(token)
    return ended_well(True, "completed")


def retry_delays(found: Task) -> list[float]:
    """The delays between the attempts that the task has left, in seconds: the same that the nexus computes."""
    policy = found.retry_policy
    return [
        backoff_seconds(policy, failures, found.task_id)
        for failures in range(found.failure_count + 1, policy.max_attempts)
    ]


def _offered_again(execution: _Execution) -> Callable[[Any, Any, Any], bool]:
    def condition(_task: Any, _task_run: Any, _state: Any) -> bool:
        return execution.again

    return condition


@task(name="attempt", task_run_name="{task_id} · {agent_id}", cache_policy=NO_CACHE)
async def _attempt(task_id: str, agent_id: str) -> None:
    execution = _execution.get()
    execution.again = False
    claim = await _claimed(execution.nexus, task_id, agent_id)
    done = await run_attempt(execution.nexus, claim, run_ref=run_ref(), log=run_log())
    execution.again = done.task is not None and done.task.status == TaskStatus.PENDING
    raise_unless_completed(task_id, done)


def raise_unless_completed(task_id: str, done: Finished) -> None:
    """Turn an attempt that did not complete its task into the error that its Prefect run shows."""
    if done.outcome == AttemptOutcome.COMPLETED:
        return
    if done.outcome in (AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT) and done.error is not None:
        raise done.error
    raise AttemptLost(f"attempt {done.number} at {task_id} ended {done.outcome}")


async def _claimed(nexus: TaskNexus, task_id: str, agent_id: str) -> Claim:
    """Claim the task, waiting for its own backoff where Prefect's delay was a little shorter."""
    while True:
        try:
            return await taken(lambda: nexus.claim_task(task_id, agent_id), undo=nexus.release)
        except NotClaimable as refused:
            present = await asyncio.to_thread(nexus.now)
            wait = (refused.available_at - present).total_seconds() if refused.available_at else 0
            if wait <= 0 or len(refused.reasons) > 1 or not _is_retrying():
                raise Refused(str(refused)) from None
            await asyncio.sleep(wait)
        except IllegalTransition as refused:
            raise Refused(str(refused)) from None


def _is_retrying() -> bool:
    return int(runtime.task_run.run_count or 1) > 1
