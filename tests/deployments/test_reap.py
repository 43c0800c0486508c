"""What dead processes left open in Prefect is closed, and nothing else. With a real server."""

from datetime import UTC, datetime, timedelta
from typing import Any

from deployments.reap import close_abandoned, close_earlier_life, drop_stale

from .live import wait_until_async


async def sleep_flow() -> None: ...


async def test_closes_what_is_open_and_ours(speaks_to: None) -> None:
    from prefect import flow, get_client
    from prefect.states import Cancelling, Completed, Pending, Running, Scheduled

    shift = flow(sleep_flow, name="process-agent-tasks")
    async with get_client() as client:
        deployment = await client.create_deployment(await client.create_flow(shift), "nexus", tags=["nexus"])

        async def run(state: Any, tags: list[str], *, deployed: bool = False) -> Any:
            if deployed:
                made = await client.create_flow_run_from_deployment(deployment, state=state, tags=tags)
            else:
                made = await client.create_flow_run(shift, state=state, tags=tags)
            return made.id

        running = [await run(Running(), ["nexus"]) for _ in range(7)]
        pending, cancelling = await run(Pending(), ["nexus"]), await run(Cancelling(), ["nexus", "mine"])
        served = await run(Running(), ["nexus"], deployed=True)
        others = {
            await run(Running(), ["other"]): "RUNNING",
            await run(Completed(), ["nexus"]): "COMPLETED",
            await run(Scheduled(), ["nexus"]): "SCHEDULED",
        }
        attempt = await client.create_task_run(_task(), flow_run_id=running[0], dynamic_key="0", state=Running())

        async def state_of(run_id: Any) -> str:
            return str((await client.read_flow_run(run_id)).state_type.value)

        # While another command uses the server, only what a runner executed is known to be dead.
        assert len(await close_earlier_life(alone=False)) == 1
        assert await state_of(served) == "CRASHED"
        assert await state_of(running[0]) == "RUNNING"

        # More than fit one answer of the API.
        closed = await close_abandoned("the test ended it", batch=3)
        assert len(closed) == 9
        assert {await state_of(one) for one in [*running, pending]} == {"CRASHED"}
        assert await state_of(cancelling) == "CANCELLED"
        assert {one: await state_of(one) for one in others} == others
        state = (await client.read_flow_run(running[0])).state
        assert state.message == "the test ended it"
        assert (await client.read_task_run(attempt.id)).state_type.value == "CRASHED"
        assert await close_abandoned("again") == []


def _task() -> Any:
    from prefect import task

    return task(sleep_flow, name="work")


async def test_drops_late_sweeps_and_nothing_that_was_asked_for(speaks_to: None) -> None:
    from prefect import flow, get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import IntervalSchedule
    from prefect.states import Scheduled

    async with get_client() as client:
        often = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(minutes=5)), active=True)
        flow_id = await client.create_flow(flow(sleep_flow, name="sweep-stalled-tasks"))
        sweep = await client.create_deployment(flow_id, "nexus", tags=["nexus"], schedules=[often])
        soon = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(minutes=1))
        wanted = await client.create_flow_run_from_deployment(sweep, state=soon, tags=["nexus"])

        async def made() -> int:
            return len([run for run in await client.read_flow_runs(limit=200) if run.auto_scheduled])

        # The scheduler of the real server makes them, a dozen ahead; in the future none is late.
        await wait_until_async(made)
        before = await made()
        assert await drop_stale() == 0
        # As seen from half an hour later six are, and the one that somebody asked for is as late as they.
        dropped = await drop_stale(late=timedelta(minutes=-30), batch=4)
        assert 5 <= dropped <= 7
        assert await made() == before - dropped
        assert (await client.read_flow_run(wanted.id)).state_type.value == "SCHEDULED"
