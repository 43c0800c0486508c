"""The hands of a shift: each makes one attempt after another, as a Prefect task run or unseen by Prefect."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.endings import STOPS, ending, handed_back
from flows.finished import Finished
from flows.forms import Observe
from flows.heartbeat import Pulse
from flows.observe import attempt_name, label_attempt, run_log, run_ref
from flows.reports import AttemptReport
from flows.runner import Log, run_attempt
from flows.together import Together
from nexus import Attempt, Claim, TaskNexus, TaskStatus
from nexus.masking import Mask

LINGER_SECONDS: Final = 0.02
"""How long a completion waits for others to be written with, where there are some."""

LINGER_TO_BEGIN_SECONDS: Final = 0.002
"""The same of an attempt that is about to begin: somebody's hand waits for it."""


@dataclass(slots=True)
class Shared:
    """What the hands of a shift have in common."""

    nexus: TaskNexus
    lease_seconds: float
    observe: Observe
    log: Log
    run: dict[str, Any]
    """The run of the shift."""
    pulse: Pulse
    mask: Mask
    """What is secret here, as of the last claim."""
    begun: Together[Attempt] = field(init=False)
    """The attempts that begin."""
    completed: Together[TaskStatus] = field(init=False)
    """Those that go well."""

    def __post_init__(self) -> None:
        nexus = self.nexus
        self.begun = Together(
            lambda claims, refs: nexus.start_many(claims, run_refs=refs), self.lease_seconds, LINGER_TO_BEGIN_SECONDS
        )
        self.completed = Together(
            lambda claims, results: nexus.complete_many([*zip(claims, results, strict=True)]),
            self.lease_seconds,
            LINGER_SECONDS,
        )


@dataclass(slots=True)
class Work:
    """What one hand is to do. Prefect sees its name only: each parameter of a task run costs it time."""

    shared: Shared
    claim: Claim
    at_work: Callable[[Claim], object]
    """Told when the attempt is in this hand's care."""
    freed: Callable[[], None]
    finished: Finished | None = None
    is_free: bool = False
    is_handed_back: bool = False
    stop: BaseException | None = None
    """What stopped it, where its task was handed back then; its run has ended in order, the hand has not."""

    def free(self) -> None:
        """The hand is free; said once."""
        if not self.is_free:
            self.is_free = True
            self.freed()

    async def do(self) -> None:
        """The attempt; what goes wrong with it is in the nexus, and in the state of its run."""
        if self.shared.observe == "shift":
            await self.attempt(self.shared.run, self.shared.log)
            return
        token = _work.set(self)
        try:
            await _attempt(return_state=True)  # type: ignore[misc] # Prefect types it for sync tasks only
        finally:
            _work.reset(token)
        if self.stop is not None:
            raise self.stop

    def handed_back(self) -> None:
        """The task is offered again, because its agent was stopped."""
        self.is_handed_back = True

    async def attempt(self, ref: dict[str, Any], log: Log) -> None:
        """As the run `ref`."""
        shared = self.shared
        self.at_work(self.claim)
        self.finished = await run_attempt(
            shared.nexus,
            self.claim,
            lease_seconds=shared.lease_seconds,
            run_ref=ref,
            log=log,
            pulse=shared.pulse,
            mask=shared.mask,
            start=shared.begun.write,
            complete=shared.completed.write,
            on_idle=self.free,
            on_handed_back=self.handed_back,
        )

    def report(self) -> AttemptReport | None:
        """How it went; None where it did not come to an end."""
        ended = self.finished
        if ended is None:
            return None
        return AttemptReport(
            task_id=self.claim.task_id,
            number=ended.number,
            outcome=ended.outcome,
            status=ended.status,
            seconds=ended.seconds,
            error=str(ended.error) if ended.error else None,
        )


_work: ContextVar[Work] = ContextVar("work")


@task(name="attempt", task_run_name=lambda: attempt_name(_work.get().claim), cache_policy=NO_CACHE)
async def _attempt() -> Any:
    work = _work.get()
    label_attempt(work.claim)
    try:
        await work.attempt(run_ref(), run_log())
    except STOPS as stop:
        if not work.is_handed_back:
            raise
        work.stop = stop
        return await handed_back()
    assert work.finished is not None
    state = ending(work.claim.task_id, work.finished)
    if state is not None and state.is_failed():
        run_log().error("The attempt failed.", exc_info=work.finished.error)  # Prefect logs the state, not where
    return state
