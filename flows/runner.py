"""Runs ONE attempt: start, heartbeat, handler, close. Plain Python: it knows neither Prefect nor SQL.

However the attempt ends (returned, raised, timed out, cancelled, claim lost, agent stopping), it is closed in
the nexus before `run_attempt` ends, as long as the database can be reached within the lease.
"""

import asyncio
import functools
import inspect
import logging
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from flows.finished import Finished
from flows.handlers import TaskContext, find
from flows.handlers.contract import Handler
from flows.heartbeat import Ending, Pulse, heartbeat
from flows.secrets import MaskedLog, in_words, told
from flows.threads import end_of, in_own_thread, outlast, to_the_end
from flows.tracing import attempt_span
from nexus import Attempt, AttemptOutcome, Claim, Task, TaskNexus, TaskStatus
from nexus.errors import ClaimLost, DatabaseUnavailable, IllegalTransition, NexusError
from nexus.masking import Mask, mask_of

T = TypeVar("T")

GRACE_SECONDS: Final = 10.0
"""How long a handler may take to notice that it must stop."""

Log = logging.Logger | logging.LoggerAdapter[Any]

Start = Callable[[Claim, Any], Awaitable[Attempt]]
"""Begins an attempt in a run; raises what `TaskNexus.start` raises."""

Complete = Callable[[Claim, Any], Awaitable[TaskStatus]]
"""Writes a result; raises what `TaskNexus.complete` raises."""


class NoHandler(NexusError):
    """Nothing here does tasks of this type; the task was handed back for agents elsewhere."""

    def __init__(self, task_id: str, task_type: str) -> None:
        self.task_id, self.task_type = task_id, task_type
        super().__init__(
            f"Task {task_id!r} has the type {task_type!r}, which nothing here may do. Register a handler for it "
            "(entry point group nexus.handlers), or allow it in the settings ([command], [http])."
        )


async def run_attempt(
    nexus: TaskNexus,
    claim: Claim,
    *,
    lease_seconds: float | None = None,
    run_ref: Any = None,
    log: Log | None = None,
    grace_seconds: float = GRACE_SECONDS,
    pulse: Pulse | None = None,
    mask: Mask | None = None,
    start: Start | None = None,
    complete: Complete | None = None,
    on_idle: Callable[[], None] | None = None,
    on_handed_back: Callable[[], None] | None = None,
) -> Finished:
    """Do the work of a claimed task once, and close the attempt.

    Args:
        lease_seconds: the length of the claim's lease; None is the setting.
        run_ref: what made this attempt, kept on its row.
        pulse: where the agent's other hands see whether it can renew its claims.
        mask: what is secret here; None is what the settings and the environment say.
        start: how the attempt begins; None is at once, by itself.
        complete: how a result is written; None is the same.
        on_idle: called when the handler has ended, before that is written.
        on_handed_back: called when the task is offered again because this ended before it was done.

    Raises `NoHandler` (the claim is handed back), `ClaimLost` (before it began), `DatabaseUnavailable`, and
    passes on `asyncio.CancelledError`, and whatever else breaks the event loop off, after the claim was handed
    back.
    """
    secret = (mask or mask_of(nexus.settings, os.environ)).knowing(claim.task.payload)
    run = _Run(nexus, claim, log or logging.getLogger("nexus.handlers"), lease_seconds, grace_seconds, pulse, secret)
    run.start = start or run.start_alone
    run.complete = complete or run.complete_alone
    run.on_idle = on_idle
    run.on_handed_back = on_handed_back
    work = find(claim.task.task_type)
    if work is None:
        await run.hand_back(f"no handler for {claim.task.task_type}")
        raise NoHandler(claim.task_id, claim.task.task_type)
    with attempt_span(claim, run_ref, secret) as span:
        finished = await run.begin(run_ref) or await run.until_closed(work)
        span.ended(finished)
    return finished


class _Run:
    context: TaskContext
    start: Start
    complete: Complete
    on_idle: Callable[[], None] | None
    on_handed_back: Callable[[], None] | None

    def __init__(
        self,
        nexus: TaskNexus,
        claim: Claim,
        log: Log,
        lease_seconds: float | None,
        grace: float,
        pulse: Pulse | None,
        mask: Mask,
    ) -> None:
        self.mask = mask
        self.nexus, self.claim, self.log, self.grace = nexus, claim, MaskedLog(log, self.mask), grace
        self.lease_seconds = lease_seconds or nexus.settings.lease_seconds
        self.pulse = pulse
        self.began = time.monotonic()
        self.number = 0
        self.ending: Ending | None = None

    async def begin(self, run_ref: Any) -> Finished | None:
        """Start, and gather what the handler is given; how it ended, where that cannot be had.

        It has begun then, so that is a failure and counts: handed back, the task would come to nothing for ever.
        """
        task = self.claim.task
        try:
            if (present := asyncio.current_task()) is not None and present.cancelling():
                await asyncio.sleep(0)  # the caller was stopped while it claimed
            if task.status == TaskStatus.CLAIMED:
                self.number = (await self.start(self.claim, run_ref)).number
            else:  # it began with its claim
                self.number = task.attempt_count
            self.context = TaskContext(
                agent_id=self.claim.agent_id,
                attempt_number=self.number,
                idempotency_key=task.work_key,
                settings=self.nexus.settings,
                previous_error=task.error,
                logger=self.log,
            )
            if task.depends_on:
                self.context.dependency_results = await to_the_end(self.nexus.results, task.depends_on)
            if task.reason:
                self.context.review_note = await to_the_end(self._review_note)
        except ClaimLost:
            raise
        except BaseException as error:
            if self.number and isinstance(error, Exception) and not isinstance(error, NexusError):
                return await self._failed(error)
            await self.hand_back(f"its agent could not begin: {type(error).__name__}")
            raise
        return None

    def _review_note(self) -> str | None:
        """The task's reason, if a reviewer gave it: what was completed once and is offered again was rejected."""
        task = self.claim.task
        completed = any(one.outcome == AttemptOutcome.COMPLETED for one in self.nexus.attempts(task.task_id))
        return task.reason if completed else None

    async def until_closed(self, work: Handler) -> Finished:
        doing = asyncio.ensure_future(self._call(work))
        if self.on_idle is not None:
            on_idle = self.on_idle
            doing.add_done_callback(lambda _: on_idle())

        def end(ending: Ending) -> None:
            if not doing.done():
                self.ending = ending
                self._tell_to_stop(doing)

        keep = heartbeat(
            self.nexus,
            self.claim,
            lease_seconds=self.lease_seconds,
            take_note=self._note,
            on_end=end,
            pulse=self.pulse,
        )
        async with keep:
            try:
                is_done = await end_of(doing, self.claim.task.timeout_seconds)
                if self.ending is not None or not is_done:
                    await self._stop(doing)
                elif self._was_struck(doing):
                    await doing
            except BaseException:
                # The agent is told to stop; the heartbeat goes on until the handler has wound down.
                await self._stop(doing)
                await self.hand_back("its agent stopped")
                await self._keep_late_result(doing)
                raise
            return await self._close(doing, timed_out=not is_done)

    def _tell_to_stop(self, doing: asyncio.Task[Any]) -> None:
        self.context.stop.set()
        if not doing.cancelling():  # a second cancellation would cut short how it tidies up
            doing.cancel()

    async def _stop(self, doing: asyncio.Task[Any]) -> None:
        """Tell the handler to stop and wait for that, within its grace; a stop of our own strikes afterwards."""
        self._tell_to_stop(doing)
        stopped = await outlast(doing, self.grace)
        if not doing.done():
            self.log.error("the handler of %s did not stop; it goes on unheeded", self.claim.task_id)
            doing.add_done_callback(_forget)
        if stopped is not None and (present := asyncio.current_task()) is not None:
            present.cancel(*stopped.args)

    async def _call(self, work: Handler) -> Any:
        try:
            if inspect.iscoroutinefunction(work):
                return await work(self.claim.task, self.context)
            result = await self._in_thread(functools.partial(work, self.claim.task, self.context))
            return await result if inspect.isawaitable(result) else result
        except SystemExit as error:
            # A handler that calls sys.exit() ends its attempt, not the agent.
            raise RuntimeError(f"the handler called sys.exit({error.code!r})") from error

    async def _in_thread(self, call: Callable[[], T]) -> T:
        running = in_own_thread(functools.partial(_tamed, call), f"{self.claim.task_id} handler")
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            # A thread cannot be stopped from outside; it has seen `context.stop` and gets a while to act on it.
            await outlast(running, self.grace)
            if not running.done():
                raise
            return running.result()

    @staticmethod
    def _was_struck(doing: asyncio.Future[Any]) -> bool:
        """A signal's exception came up in the main thread, and that was in the handler: it is not the handler's."""
        return not (doing.cancelled() or isinstance(doing.exception(), Exception | None))

    async def _close(self, doing: asyncio.Future[Any], *, timed_out: bool) -> Finished:
        if self.ending is not None:
            if self.ending == "lost":
                await self._lose("its lease could not be renewed")
            await self._keep_late_result(doing)
            return await self._as_recorded(AttemptOutcome(self.ending))
        if timed_out:
            said = doing.exception() if doing.done() and not doing.cancelled() else None
            last = f"; at the end it said: {in_words(said).message}" if said else ""
            return await self._failed(TimeoutError(f"took longer than {self.claim.task.timeout_seconds:g} s{last}"))
        if doing.cancelled():
            return await self._failed(RuntimeError("the handler cancelled itself"))
        error = doing.exception()
        if error is not None:
            return await self._failed(error)
        try:
            if note := self._note():
                await to_the_end(self._write_note, note)
            status = await self.complete(self.claim, self._result(doing))
        except DatabaseUnavailable:
            raise
        except (ClaimLost, IllegalTransition) as refused:
            return await self._as_recorded(AttemptOutcome.LOST, refused)
        except Exception as unfit:
            return await self._failed(unfit)
        return Finished(AttemptOutcome.COMPLETED, self.number, self._seconds(), status)

    async def start_alone(self, claim: Claim, run_ref: Any) -> Attempt:
        """As a shift, for one."""
        return await to_the_end(self.nexus.start, claim, run_ref)

    async def complete_alone(self, claim: Claim, result: Any) -> TaskStatus:
        """The same."""
        task = await to_the_end(self._insist, lambda: self.nexus.complete(claim, result))
        return task.status

    def _write_note(self, note: str) -> None:
        with suppress(NexusError):  # the write of the result itself says more
            self.nexus.heartbeat(self.claim, note)

    async def _failed(self, error: BaseException) -> Finished:
        failure, error = told(error, self.mask)
        try:
            task = await to_the_end(self._insist, lambda: self.nexus.fail(self.claim, failure))
        except (ClaimLost, IllegalTransition) as refused:
            self.log.warning("%s failed: %s", self.claim.task_id, failure)
            return await self._as_recorded(AttemptOutcome.LOST, refused)
        outcome = AttemptOutcome.TIMED_OUT if failure.timed_out else AttemptOutcome.FAILED
        return self._finished(outcome, task, error)

    async def _as_recorded(self, otherwise: AttemptOutcome, refused: Exception | None = None) -> Finished:
        """Somebody closed it before us: cancelled, blocked, lost; or we did, and the answer was lost."""

        def look() -> tuple[AttemptOutcome, Task | None]:
            mine = [one for one in self.nexus.attempts(self.claim.task_id) if one.claim_no == self.claim.claim_no]
            task = self.nexus.get_task_by_id(self.claim.task_id)
            current = task is not None and task.claim_no == self.claim.claim_no
            return mine[-1].outcome, task if current else None

        try:
            outcome, task = await to_the_end(look)
        except (NexusError, IndexError):
            outcome, task = otherwise, None
        if outcome == AttemptOutcome.RUNNING:
            outcome = otherwise
        if outcome in (AttemptOutcome.LOST, AttemptOutcome.RELEASED):
            task = None
        if refused is not None:
            self.log.warning("%s", refused)
        return self._finished(outcome, task, refused if outcome == AttemptOutcome.LOST else None)

    async def hand_back(self, reason: str) -> None:
        try:
            with suppress(ClaimLost, IllegalTransition):  # it is not ours any more
                await to_the_end(self.nexus.release, self.claim, reason)
                if self.on_handed_back is not None:
                    self.on_handed_back()
        except NexusError as error:
            self.log.warning("not handed back: %s", error)

    async def _lose(self, reason: str) -> None:
        """Where only the heartbeats were lost, nobody need wait for a sweep. What it would count is counted."""
        try:
            await to_the_end(self.nexus.lose, self.claim, reason)
        except NexusError as error:
            self.log.warning("not said to be lost: %s", error)

    async def _keep_late_result(self, doing: asyncio.Future[Any]) -> None:
        """What a handler returned although it was told to stop: perhaps half of it, so nothing is completed."""
        if not doing.done() or doing.cancelled() or doing.exception() is not None or doing.result() is None:
            return
        try:
            await to_the_end(self.nexus.complete, self.claim, self._result(doing))
        except ClaimLost:
            self.log.warning("What %s returned came late; it is kept as late_result.", self.claim.task_id)
        except Exception as error:
            self.log.warning("What %s returned came late and is not kept: %s", self.claim.task_id, error)

    def _result(self, doing: asyncio.Future[Any]) -> Any:
        result = doing.result()
        try:
            return self.mask.value(result)
        except RecursionError:  # no JSON: the nexus says so
            return result

    def _note(self) -> str | None:
        note = self.context.take_note()
        return self.mask.text(note) if isinstance(note, str) else note

    def _insist(self, write: Callable[[], Task]) -> Task:
        """Write until it is written or the lease is over: what was done cost somebody money."""
        deadline = time.monotonic() + self.lease_seconds
        while True:
            if note := self._note():
                self._write_note(note)
            try:
                return write()
            except DatabaseUnavailable as error:
                if time.monotonic() > deadline:
                    raise
                self.log.warning("%s Trying again.", error)
                time.sleep(min(1.0, self.lease_seconds / 3))

    def _finished(self, outcome: AttemptOutcome, task: Task | None, error: BaseException | None = None) -> Finished:
        status, available_at = (task.status, task.available_at) if task is not None else (None, None)
        return Finished(outcome, self.number, self._seconds(), status, available_at, error)

    def _seconds(self) -> float:
        return time.monotonic() - self.began


def _tamed(call: Callable[[], T]) -> T:
    """No signal strikes in a thread: what is raised there is the handler's own, and ends the attempt only."""
    try:
        return call()
    except SystemExit:
        raise
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, StopIteration):  # which no future can hold
            raise
        raise RuntimeError(f"the handler raised {type(error).__name__}: {error}") from error


def _forget(doing: asyncio.Future[Any]) -> None:
    """Its end interests nobody, so asyncio need not complain that nobody asked."""
    if not doing.cancelled():
        doing.exception()
