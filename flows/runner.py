"""Runs ONE attempt: start, heartbeat, handler, close. Plain Python: it knows neither Prefect nor SQL.

However the attempt ends (returned, raised, timed out, cancelled, claim lost, agent stopping), it is closed in
the nexus before `run_attempt` ends, as long as the database can be reached within the lease.
"""

import asyncio
import contextvars
import functools
import inspect
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from flows.handlers import TaskContext, find
from flows.handlers.contract import Handler
from flows.heartbeat import Ending, heartbeat
from flows.threads import in_thread
from nexus import AttemptOutcome, Claim, Task, TaskNexus
from nexus.errors import ClaimLost, DatabaseUnavailable, InvalidTask, NexusError

T = TypeVar("T")

GRACE_SECONDS: Final = 10.0
"""How long a handler in a thread may take to notice that it must stop."""

Log = logging.Logger | logging.LoggerAdapter[Any]


class NoHandler(NexusError):
    """Nothing here does tasks of this type; the task was handed back for agents elsewhere."""

    def __init__(self, task_id: str, task_type: str) -> None:
        self.task_id, self.task_type = task_id, task_type
        super().__init__(
            f"Task {task_id!r} has the type {task_type!r}, which nothing here may do. Register a handler for it "
            "(entry point group nexus.handlers), or allow it in the settings ([command], [http])."
        )


@dataclass(frozen=True, slots=True)
class Finished:
    """How an attempt ended."""

    outcome: AttemptOutcome
    number: int
    seconds: float
    task: Task | None = None
    """As it stands afterwards; None where the claim was lost."""
    error: BaseException | None = None
    """What the handler raised."""


async def run_attempt(
    nexus: TaskNexus,
    claim: Claim,
    *,
    lease_seconds: float | None = None,
    run_ref: Any = None,
    log: Log | None = None,
    executor: Executor | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> Finished:
    """Do the work of a claimed task once, and close the attempt.

    Args:
        lease_seconds: the length of the claim's lease; None is the setting.
        run_ref: what made this attempt, kept on its row.
        executor: for handlers that are `def`; None is the loop's own.

    Raises `NoHandler` (the claim is handed back), `ClaimLost` (before it began), `DatabaseUnavailable`, and
    passes on `asyncio.CancelledError` after the claim was handed back.
    """
    work = find(claim.task.task_type)
    if work is None:
        await asyncio.to_thread(nexus.release, claim, f"no handler for {claim.task.task_type}")
        raise NoHandler(claim.task_id, claim.task.task_type)
    task = claim.task
    try:
        results = await asyncio.to_thread(nexus.results, task.depends_on) if task.depends_on else {}
        note = await asyncio.to_thread(_review_note, nexus, task) if task.reason else None
        attempt = await in_thread(lambda: nexus.start(claim, run_ref))
    except asyncio.CancelledError:
        await hand_back(nexus, claim, "its agent stopped before it began")
        raise
    context = TaskContext(
        agent_id=claim.agent_id,
        attempt_number=attempt.number,
        idempotency_key=task.work_key,
        settings=nexus.settings,
        dependency_results=results,
        previous_error=task.error,
        review_note=note,
        logger=log or logging.getLogger("nexus.handlers"),
    )
    run = _Run(nexus, claim, context, attempt.number, lease_seconds or nexus.settings.lease_seconds, grace_seconds)
    return await run.until_closed(work, executor)


def _review_note(nexus: TaskNexus, task: Task) -> str | None:
    """The task's reason, if a reviewer gave it: a task that was completed once and is offered again was rejected."""
    completed = any(attempt.outcome == AttemptOutcome.COMPLETED for attempt in nexus.attempts(task.task_id))
    return task.reason if completed else None


async def hand_back(nexus: TaskNexus, claim: Claim, reason: str) -> None:
    """Release a claim, whatever becomes of us meanwhile; one that is lost already is no error."""
    try:
        await asyncio.shield(asyncio.to_thread(nexus.release, claim, reason))
    except NexusError as error:
        logging.getLogger("nexus.flows").warning("not handed back: %s", error)


class _Run:
    def __init__(
        self, nexus: TaskNexus, claim: Claim, context: TaskContext, number: int, lease_seconds: float, grace: float
    ) -> None:
        self.nexus, self.claim, self.context, self.number = nexus, claim, context, number
        self.lease_seconds, self.grace = lease_seconds, grace
        self.began = time.monotonic()
        self.ending: Ending | None = None

    async def until_closed(self, work: Handler, executor: Executor | None) -> Finished:
        doing = asyncio.ensure_future(self._call(work, executor))

        def end(ending: Ending) -> None:
            self.ending = ending
            self._stop(doing)

        keep = heartbeat(
            self.nexus,
            self.claim,
            lease_seconds=self.lease_seconds,
            take_note=self.context.take_note,
            on_end=end,
        )
        closing: asyncio.Future[Finished] | None = None
        try:
            async with keep:
                done, _ = await asyncio.wait({doing}, timeout=self.claim.task.timeout_seconds)
                if not done:
                    self._stop(doing)
                    await asyncio.wait({doing})
                closing = asyncio.ensure_future(self._close(doing, timed_out=not done))
                return await asyncio.shield(closing)
        except asyncio.CancelledError:
            if closing is not None:
                await asyncio.wait({closing})  # it is being written down already
            else:
                self._stop(doing)
                await asyncio.wait({doing})
                await hand_back(self.nexus, self.claim, "its agent stopped")
            raise

    def _stop(self, doing: asyncio.Future[Any]) -> None:
        self.context.stop.set()
        doing.cancel()

    async def _call(self, work: Handler, executor: Executor | None) -> Any:
        try:
            if inspect.iscoroutinefunction(work):
                return await work(self.claim.task, self.context)
            return await self._in_thread(work, executor)
        except SystemExit as error:
            # A handler that calls sys.exit() ends its attempt, not the agent.
            raise RuntimeError(f"the handler called sys.exit({error.code!r})") from error

    async def _in_thread(self, work: Handler, executor: Executor | None) -> Any:
        call = functools.partial(contextvars.copy_context().run, work, self.claim.task, self.context)
        running = asyncio.get_running_loop().run_in_executor(executor, call)
        try:
            result = await asyncio.shield(running)
        except asyncio.CancelledError:
            # A thread cannot be stopped from outside; it has seen `context.stop` and gets a while to act on it.
            await asyncio.wait({running}, timeout=self.grace)
            if not running.done():
                self.context.logger.error("the handler of %s did not stop; its thread goes on", self.claim.task_id)
            raise
        return await result if inspect.isawaitable(result) else result

    async def _close(self, doing: asyncio.Future[Any], *, timed_out: bool) -> Finished:
        if self.ending == "cancelled":
            return self._finished(AttemptOutcome.CANCELLED, await asyncio.to_thread(self._task))
        if self.ending == "lost" and doing.cancelled():
            return self._finished(AttemptOutcome.LOST, None)
        if timed_out:
            said = None if doing.cancelled() else doing.exception()
            last = f"; at the end it said: {said}" if said else ""
            return await self._failed(TimeoutError(f"took longer than {self.claim.task.timeout_seconds:g} s{last}"))
        if doing.cancelled():
            return await self._failed(RuntimeError("the handler cancelled itself"))
        error = doing.exception()
        if error is not None:
            return await self._failed(error)
        try:
            task = await self._insist(lambda: self.nexus.complete(self.claim, doing.result()))
        except InvalidTask as unfit:
            return await self._failed(unfit)
        except ClaimLost as lost:
            self.context.logger.warning("%s Its result is kept as late_result.", lost)
            return self._finished(AttemptOutcome.LOST, None, lost)
        return self._finished(AttemptOutcome.COMPLETED, task)

    async def _failed(self, error: BaseException) -> Finished:
        try:
            task = await self._insist(lambda: self.nexus.fail(self.claim, error))
        except ClaimLost as lost:
            self.context.logger.warning("%s", lost)
            return self._finished(AttemptOutcome.LOST, None, error)
        outcome = AttemptOutcome.TIMED_OUT if isinstance(error, TimeoutError) else AttemptOutcome.FAILED
        return self._finished(outcome, task, error)

    async def _insist(self, write: Callable[[], T]) -> T:
        """Write until it is written or the lease is over: what was done cost somebody money."""
        deadline = time.monotonic() + self.lease_seconds
        while True:
            try:
                return await asyncio.to_thread(write)
            except DatabaseUnavailable as error:
                if time.monotonic() > deadline:
                    raise
                self.context.logger.warning("%s Trying again.", error)
                await asyncio.sleep(1)

    def _task(self) -> Task | None:
        return self.nexus.get_task_by_id(self.claim.task_id)

    def _finished(self, outcome: AttemptOutcome, task: Task | None, error: BaseException | None = None) -> Finished:
        return Finished(outcome, self.number, time.monotonic() - self.began, task, error)
