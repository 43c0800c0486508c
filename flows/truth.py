"""Prefect is told the truth, and is asked: runs that nobody executes any more are closed, and claims of theirs too.

Prefect (3.8) believes a killed run Running for ever; the nexus knows by the lease. The other way round, Prefect
knows at once of a run that was cancelled, or whose process its runner saw die, while the lease would take a while.
So after each sweep the two are compared, both ways, a few batched questions a pass. What Prefect could not be told
stays on the list for the next pass.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas import filters as f
from prefect.client.schemas.objects import FlowRun, StateType, TaskRun
from prefect.client.schemas.sorting import TaskRunSort
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Crashed

from flows.events import run_id
from flows.observe import run_log
from nexus import Attempt, AttemptOutcome, TaskNexus

BATCH: Final = 200
"""The most that the API hands out at once, and attempts that one pass looks at."""

SEEN_RECENTLY: Final = timedelta(seconds=30)
"""An agent at work is seen every 15 s: one that was seen since is alive."""


@dataclass(slots=True)
class Aligned:
    """What one comparison found."""

    closed: list[str] = field(default_factory=list)
    """Runs that were closed in Prefect, a line each."""
    ended: list[str] = field(default_factory=list)
    """Claims that were ended in the nexus, a line each."""


@dataclass(frozen=True, slots=True)
class _Runs:
    """What Prefect says of some attempts' runs."""

    flow_runs: Mapping[UUID, FlowRun]
    task_runs: Mapping[UUID, TaskRun]

    @classmethod
    async def of(cls, client: PrefectClient, attempts: Iterable[Attempt]) -> "_Runs":
        known = list(attempts)
        flow_ids = {one for one in (run_id(attempt.run_ref, "flow_run_id") for attempt in known) if one}
        task_ids = {one for one in (run_id(attempt.run_ref, "task_run_id") for attempt in known) if one}
        flow_runs: list[FlowRun] = []
        task_runs: list[TaskRun] = []
        if flow_ids:
            wanted = f.FlowRunFilter(id=f.FlowRunFilterId(any_=list(flow_ids)))
            flow_runs = await client.read_flow_runs(flow_run_filter=wanted, limit=BATCH)
        if task_ids:
            asked = f.TaskRunFilter(id=f.TaskRunFilterId(any_=list(task_ids)))
            task_runs = await client.read_task_runs(task_run_filter=asked, limit=BATCH)
        return cls({run.id: run for run in flow_runs}, {run.id: run for run in task_runs})

    def flow_run(self, attempt: Attempt) -> FlowRun | None:
        return self.flow_runs.get(run_id(attempt.run_ref, "flow_run_id") or UUID(int=0))

    def task_run(self, attempt: Attempt) -> TaskRun | None:
        return self.task_runs.get(run_id(attempt.run_ref, "task_run_id") or UUID(int=0))


async def align(nexus: TaskNexus) -> Aligned:
    """Compare once, both ways. Prefect being away is logged, and breaks nothing: the next pass has it."""
    aligned = Aligned()
    try:
        async with get_client() as client:
            await _ask(client, nexus, aligned)
            await _tell(client, nexus, aligned)
    except Exception as error:
        run_log().warning("Prefect could not be told the truth, the next sweep tries again: %s", error)
    return aligned


async def _ask(client: PrefectClient, nexus: TaskNexus, aligned: Aligned) -> None:
    """Ends the claims of attempts whose runs Prefect knows to be crashed or cancelled."""
    last: Attempt | None = None
    while open_attempts := await asyncio.to_thread(nexus.runs_going_on, last, BATCH):
        runs = await _Runs.of(client, open_attempts)
        for attempt in open_attempts:
            over = _over(runs.task_run(attempt)) or _over(runs.flow_run(attempt))
            if over is not None:
                kind, reason = over
                crashed = kind == StateType.CRASHED
                if await asyncio.to_thread(nexus.run_ended, attempt, reason, crashed=crashed):
                    aligned.ended.append(f"{attempt.task_id}: {reason}")
        last = open_attempts[-1]


def _over(run: FlowRun | TaskRun | None) -> tuple[StateType, str] | None:
    """How a run ended that cannot have ended by itself: then its attempt would be closed."""
    if run is None or run.state is None or run.state.type not in (StateType.CRASHED, StateType.CANCELLED):
        return None
    said = f": {run.state.message}" if run.state.message else ""
    return run.state.type, f"Prefect knows its run {run.name} as {run.state.name}{said}"


async def _tell(client: PrefectClient, nexus: TaskNexus, aligned: Aligned) -> None:
    """Closes runs of attempts that have ended in the nexus without their processes' knowledge."""
    attempts = await asyncio.to_thread(nexus.runs_to_close, BATCH)
    if not attempts:
        return
    present = await asyncio.to_thread(nexus.now)
    superseded = await asyncio.to_thread(nexus.superseded, attempts)
    runs = await _Runs.of(client, attempts)
    alive = await _alive(client, nexus, attempts, runs)
    told: list[Attempt] = []
    for attempt in attempts:
        lost = attempt.outcome == AttemptOutcome.LOST
        grace = timedelta(seconds=0 if lost else nexus.settings.lease_seconds)
        if attempt.finished_at is not None and present - attempt.finished_at < grace:
            continue  # its process has heard of it at its last heartbeat, and may still be winding down
        closing = _Closing(client, attempt, (attempt.task_id, attempt.number) in superseded, aligned.closed)
        try:
            if await closing.close(runs.task_run(attempt), runs.flow_run(attempt), alive):
                told.append(attempt)
        except ObjectNotFound:
            told.append(attempt)  # deleted meanwhile
    await asyncio.to_thread(nexus.runs_closed, told)


async def _alive(
    client: PrefectClient, nexus: TaskNexus, attempts: Sequence[Attempt], runs: _Runs
) -> Callable[[Attempt], bool]:
    """Whether the flow run of an attempt goes on with other work.

    It does where another attempt in it is open, where it has begun another task run since the loss, or where its
    agent was seen just now and no later run of that agent is open, which it could have been seen by.
    """
    present = await asyncio.to_thread(nexus.now)
    busy = {run_id(one.run_ref, "flow_run_id") for one in await asyncio.to_thread(nexus.runs_going_on, None, 10_000)}
    seen = {agent.agent_id: agent.last_seen_at for agent in await asyncio.to_thread(nexus.agents)}
    suspects = [run.id for run in runs.flow_runs.values() if not _is_final(run)]
    began: dict[UUID, Any] = {}
    for flow_run_id in suspects:
        inside = f.FlowRunFilter(id=f.FlowRunFilterId(any_=[flow_run_id]))
        newest = await client.read_task_runs(flow_run_filter=inside, sort=TaskRunSort.EXPECTED_START_TIME_DESC, limit=1)
        began[flow_run_id] = newest[0].expected_start_time if newest else None
    agents = {attempt.agent_id for attempt in attempts}
    tags = [f"agent:{agent_id}" for agent_id in agents]
    going = f.FlowRunFilter(
        tags=f.FlowRunFilterTags(any_=tags), state=f.FlowRunFilterState(type=f.FlowRunFilterStateType(any_=_GOING))
    )
    others = await client.read_flow_runs(flow_run_filter=going, limit=BATCH) if suspects else []

    def answer(attempt: Attempt) -> bool:
        flow_run_id = run_id(attempt.run_ref, "flow_run_id")
        if flow_run_id is None or flow_run_id not in began:
            return False
        if flow_run_id in busy:
            return True
        since, newest = attempt.finished_at, began[flow_run_id]
        if since is not None and newest is not None and newest > since:
            return True
        recently = seen.get(attempt.agent_id)
        if recently is None or since is None or recently < max(since, present - SEEN_RECENTLY):
            return False
        mine = runs.flow_runs[flow_run_id]
        return not any(
            other.id != flow_run_id and f"agent:{attempt.agent_id}" in other.tags and _later(other, mine)
            for other in others
        )

    return answer


@dataclass(frozen=True, slots=True)
class _Closing:
    """Closes what an attempt has left open in Prefect."""

    client: PrefectClient
    attempt: Attempt
    superseded: bool
    lines: list[str]

    async def close(self, task_run: TaskRun | None, flow_run: FlowRun | None, alive: Callable[[Attempt], bool]) -> bool:
        """True where nothing is left to be told."""
        if flow_run is not None and not (
            _is_final(flow_run) or alive(self.attempt) or await self._close_flow_run(flow_run)
        ):
            return False
        if task_run is not None and not _is_final(task_run):
            await self.client.set_task_run_state(task_run.id, self._state(), force=True)
            self.lines.append(f"{task_run.name}: {task_run.state_name} -> {self._state().name}")
        return True

    async def _close_flow_run(self, run: FlowRun) -> bool:
        """Where a runner may still hold the process of a run that works for nothing, it is asked to end it first."""
        own = _is_its_own(run, self.attempt)
        if not own and self.attempt.outcome != AttemptOutcome.LOST:
            return True  # one task of a shift was taken back: the shift itself is not over
        if own and self.superseded and run.deployment_id and run.state_type != StateType.CANCELLING:
            await self.client.set_flow_run_state(run.id, Cancelling(message=self._reason()), force=True)
            self.lines.append(f"{run.name}: {run.state_name} -> Cancelling")
            return False
        await self.client.set_flow_run_state(run.id, self._state(), force=True)
        self.lines.append(f"{run.name}: {run.state_name} -> {self._state().name}")
        return True

    def _state(self) -> Any:
        return (Crashed if self.attempt.outcome == AttemptOutcome.LOST else Cancelled)(message=self._reason())

    def _reason(self) -> str:
        what = {
            AttemptOutcome.LOST: "was lost",
            AttemptOutcome.RELEASED: "was taken back",
            AttemptOutcome.CANCELLED: "was cancelled",
        }[self.attempt.outcome]
        since = "; the task has a newer claim" if self.superseded else ""
        why = f": {self.attempt.error}" if self.attempt.error else ""
        return f"attempt {self.attempt.number} of {self.attempt.agent_id} at {self.attempt.task_id} {what}{why}{since}"


_GOING: Final = [StateType.RUNNING, StateType.PENDING]
_FINAL: Final = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)


def _is_final(run: FlowRun | TaskRun) -> bool:
    return run.state_type in _FINAL


def _is_its_own(run: FlowRun, attempt: Attempt) -> bool:
    """The run is there for this task alone (`execute_task`)."""
    return (run.parameters or {}).get("task_id") == attempt.task_id


def _later(other: FlowRun, run: FlowRun) -> bool:
    return other.start_time is not None and run.start_time is not None and other.start_time > run.start_time
