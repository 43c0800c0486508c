"""`execute_task`: one task, one flow run; each attempt is a run of one Prefect task, retried as its policy says."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow, runtime, task
from prefect.cache_policies import NO_CACHE

from flows.awaiting import say_why
from flows.board import board
from flows.endings import REFUSED, STOPS, ending, handed_back, stops_in_order, why_again
from flows.forms import AgentId, TaskId
from flows.handlers import runnable_types
from flows.observe import (
    artifact_key,
    ended_as,
    ended_well,
    label_attempt,
    run_log,
    run_ref,
    show_markdown,
    tag_flow_run,
    tags_of,
)
from flows.relay import relaying
from flows.reports import task_page
from flows.runner import NoHandler, run_attempt
from flows.threads import to_the_end
from nexus import Claim, TaskNexus, TaskStatus
from nexus.errors import IllegalTransition, NexusError, NotClaimable, TaskNotFound


class Refused(Exception):
    """The claim was refused: somebody else has the task, or it is not to be had now. Not a failure."""


@dataclass(slots=True)
class _Execution:
    """What the attempts of one flow run share; Prefect's task runs get ids only."""

    nexus: TaskNexus
    again: bool = False
    """What the nexus decided after the last attempt; Prefect obeys."""
    delay_seconds: float = 0.0
    """Until then; the policy's, or what the handler asked for."""
    why: str = ""
    """The reason."""
    saying: asyncio.Task[None] | None = None
    """Tells Prefect the reason, while the retry is awaited."""
    refused: str = ""
    """Why there was no claim to be had."""
    is_handed_back: bool = False
    stop: BaseException | None = None
    """What stopped the attempt, where its task was handed back then."""

    def handed_back(self) -> None:
        self.is_handed_back = True

    def say_no_more(self) -> None:
        if self.saying is not None:
            self.saying.cancel()


_execution: ContextVar[_Execution] = ContextVar("execution")


@flow(name="execute-task", flow_run_name="{task_id} · {agent_id}")
@stops_in_order
async def execute_task(task_id: TaskId, agent_id: AgentId = "prefect") -> bool:
    """Claim a task, execute it, complete it; failed attempts are retried as the task's policy says.

    Returns True when it was completed (or handed to review), False when the claim was refused: somebody else
    has it, it has ended, or it is not claimable now; the run then shows a quiet `Refused`. Where the claim was lost
    meanwhile the run is Crashed, where the task was cancelled or taken back it is Cancelled, and so are the errors.

    Args:
        task_id: The task to execute.
        agent_id: In whose name it is claimed.

    Raises what the handler raised in the last attempt, when the task ends failed: the run is red. Raises
    `TaskNotFound`, `AgentNotConfirmed`, `NoHandler`; cancelling the run stops the work and releases the task.
    """
    nexus = board()
    found = await asyncio.to_thread(nexus.get_task_by_id, task_id)
    await tag_flow_run(tags_of(agent_id, *((found.episode_id, found.task_type) if found else ())))
    await asyncio.to_thread(nexus.confirm_agent, agent_id)
    if found is None:
        raise TaskNotFound(task_id)
    if found.task_type not in runnable_types(nexus.settings):
        raise NoHandler(task_id, found.task_type)
    execution = _Execution(nexus)
    attempt = _attempt.with_options(
        retries=max(0, found.retry_policy.max_attempts - found.failure_count - 1),
        retry_condition_fn=_offered_again(execution),
    )
    token = _execution.set(execution)
    try:
        async with relaying(nexus):
            state = await attempt(task_id, agent_id, return_state=True)  # type: ignore[misc] # as Prefect types it
            if execution.stop is not None:
                raise execution.stop
    finally:
        _execution.reset(token)
        execution.say_no_more()
    await _show(nexus, task_id)
    if execution.refused:
        return ended_well(False, execution.refused, name=REFUSED)
    if state.is_cancelled() or state.is_crashed():
        return ended_as(state)  # type: ignore[no-any-return] # as `ended_well`
    await state.aresult()
    return ended_well(True, state.message or "completed")


async def _show(nexus: TaskNexus, task_id: str) -> None:
    """The run's page leads back to the task."""

    def page() -> str:
        task = nexus.get_task_by_id(task_id)
        return task_page(task, nexus.attempts(task_id), nexus.history(task_id)) if task else ""

    try:
        text = await asyncio.to_thread(page)
    except NexusError as error:
        run_log().warning("no page about the task: %s", error)
    else:
        await show_markdown(artifact_key("nexus-task", task_id), text, f"How {task_id} stands")


def _offered_again(execution: _Execution) -> Callable[[Any, Any, Any], bool]:
    def condition(attempt: Any, task_run: Any, _state: Any) -> bool:
        # `with_options` made this Prefect task for one flow run; the delay is read from it after this question.
        attempt.retry_delay_seconds = execution.delay_seconds
        if execution.again:
            due = datetime.now(UTC) + timedelta(seconds=execution.delay_seconds)
            execution.saying = asyncio.create_task(say_why(task_run.id, execution.why, due))
        return execution.again

    return condition


@task(name="attempt", task_run_name="{task_id} · {agent_id}", cache_policy=NO_CACHE)
async def _attempt(task_id: str, agent_id: str) -> Any:
    execution = _execution.get()
    nexus, execution.again = execution.nexus, False
    execution.say_no_more()
    try:
        claim = await _claimed(nexus, task_id, agent_id)
    except Refused as refused:
        execution.refused = str(refused)
        return ended_well(None, execution.refused, name=REFUSED)
    label_attempt(claim)
    try:
        done = await run_attempt(nexus, claim, run_ref=run_ref(), log=run_log(), on_handed_back=execution.handed_back)
    except STOPS as stop:
        if not execution.is_handed_back:
            raise
        execution.stop = stop
        return await handed_back()
    if done.status == TaskStatus.PENDING and done.available_at is not None:
        present = await asyncio.to_thread(nexus.now)
        execution.again = True
        execution.delay_seconds = max(0.0, (done.available_at - present).total_seconds())
        execution.why = why_again(done)
        if done.error is not None:
            raise done.error
    return ending(task_id, done)


async def _claimed(nexus: TaskNexus, task_id: str, agent_id: str) -> Claim:
    """Claim the task; between attempts wait for its own backoff, where Prefect's clock was a little early."""
    patience = 3
    while True:
        try:
            return await to_the_end(nexus.claim_task, task_id, agent_id)
        except NotClaimable as refused:
            present = await asyncio.to_thread(nexus.now)
            wait = (refused.available_at - present).total_seconds() if refused.available_at else 0.0
            patience -= wait <= 0  # the backoff may have ended since the claim
            if len(refused.reasons) > 1 or not _is_retrying() or not patience:
                raise Refused(str(refused)) from None
            await asyncio.sleep(max(wait, 0.01))
        except IllegalTransition as refused:
            raise Refused(str(refused)) from None


def _is_retrying() -> bool:
    return int(runtime.task_run.run_count or 1) > 1
