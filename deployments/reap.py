"""Closes in Prefect what dead processes of ours left open.

Prefect 3.8 believes a killed run Running for ever, and a sweep that is believed Running holds the one slot
of its deployment: every later sweep is cancelled for minutes. Only for runs whose processes are known to be gone;
whether the work itself is lost is for the lease in the nexus to say.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

TAG: Final = "nexus"
"""Every run of ours carries it."""

BATCH: Final = 200
"""The most that the API hands out at once."""

LATE: Final = timedelta(seconds=30)
"""Later than this, nobody is about to run it: a runner asks every other second."""


@dataclass(frozen=True)
class Spared:
    """What is not to be closed with the runs of a dead runner, because another runner lives."""

    since: datetime
    """What came to its state later than this was begun by somebody who lived."""
    runs: frozenset[str]
    """The ids of the runs whose processes live."""
    submitted: bool
    """Whether somebody who lives may be about to begin what is Pending."""

    def spares(self, run: Any) -> bool:
        from prefect.client.schemas.objects import StateType

        if str(run.id) in self.runs or (self.submitted and run.state_type == StateType.PENDING):
            return True
        return run.state is not None and bool(run.state.timestamp > self.since)


async def close_earlier_life(*, alone: bool) -> list[str]:
    """Closes, at the start, what was cut off; one line for each.

    `alone`: no other command uses our server (`Api.owned`), so whatever is open is a dead process's.
    """
    return await close_abandoned("The process that executed this run was killed.", deployed_only=not alone)


async def close_abandoned(
    message: str, *, deployed_only: bool = False, spared: Spared | None = None, batch: int = BATCH
) -> list[str]:
    """Sets every open run of ours to Crashed, or Cancelled where that was wanted; one line for each.

    `deployed_only`: only what a runner executed; runs that somebody's own process may be executing stay.
    """
    from prefect import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.states import Cancelled, Crashed

    lines: list[str] = []
    stuck = 0
    async with get_client() as client:
        filters = _open_runs(deployed_only=deployed_only)
        # What is closed leaves the filter, so the next page begins after what was not closed.
        while runs := await client.read_flow_runs(flow_run_filter=filters, limit=batch, offset=stuck):
            for run in runs:
                if spared is not None and spared.spares(run):
                    stuck += 1
                    continue
                state: Any = Cancelled if run.state_type == StateType.CANCELLING else Crashed
                # force: the rules that could refuse are for processes that are alive; slots are given back.
                await client.set_flow_run_state(run.id, state(message=message), force=True)
                after = await client.read_flow_run(run.id)
                if after.state_type == run.state_type:
                    stuck += 1
                    continue
                await _close_task_runs(client, run.id, message)
                lines.append(f"{run.name}: {run.state_name} -> {after.state_name}")
    return lines


async def drop_stale(*, late: timedelta = LATE, batch: int = BATCH) -> int:
    """Deletes scheduled runs whose time passed while nobody was there to run them; how many there were.

    A sweep that was due yesterday is none today. Runs that somebody asked for stay: they are still wanted.
    """
    from prefect import get_client
    from prefect.client.schemas import filters as f
    from prefect.client.schemas.objects import StateType

    dropped = kept = 0
    due = f.FlowRunFilter(
        tags=f.FlowRunFilterTags(all_=[TAG]),
        state=f.FlowRunFilterState(type=f.FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        next_scheduled_start_time=f.FlowRunFilterNextScheduledStartTime(before_=datetime.now(UTC) - late),
    )
    async with get_client() as client:
        while runs := await client.read_flow_runs(flow_run_filter=due, limit=batch, offset=kept):
            for run in runs:
                if run.auto_scheduled:
                    await client.delete_flow_run(run.id)
                    dropped += 1
                else:
                    kept += 1
    return dropped


def _open_runs(*, deployed_only: bool) -> Any:
    from prefect.client.schemas import filters as f
    from prefect.client.schemas.objects import StateType

    open_states = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    return f.FlowRunFilter(
        tags=f.FlowRunFilterTags(all_=[TAG]),
        state=f.FlowRunFilterState(type=f.FlowRunFilterStateType(any_=open_states)),
        deployment_id=f.FlowRunFilterDeploymentId(is_null_=False) if deployed_only else None,
    )


async def _close_task_runs(client: Any, flow_run_id: UUID, message: str) -> None:
    """A bar that is drawn as running for ever inside a closed run says something untrue."""
    from prefect.client.schemas import filters as f
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    inside = f.FlowRunFilter(id=f.FlowRunFilterId(any_=[flow_run_id]))
    open_states = f.TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
    task_filter = f.TaskRunFilter(state=f.TaskRunFilterState(type=open_states))
    for task_run in await client.read_task_runs(flow_run_filter=inside, task_run_filter=task_filter, limit=BATCH):
        await client.set_task_run_state(task_run.id, Crashed(message=message), force=True)
