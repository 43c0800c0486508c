"""Why a run awaits its retry is said after Prefect's own word for it, however late the server has that one."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect import flow, get_client, task
from prefect.states import AwaitingRetry, Running

from flows.awaiting import say_why

pytestmark = pytest.mark.usefixtures("prefect_api")


@task
async def attempt() -> None:
    """Only its run is of interest."""


@flow
async def execution() -> None:
    """Only its run is of interest."""


@pytest.mark.parametrize(
    "known",
    [
        pytest.param(lambda: Running(), id="that it began"),
        pytest.param(lambda: AwaitingRetry(scheduled_time=datetime.now(UTC)), id="the wait before this one"),
    ],
)
async def test_a_server_that_lags_has_its_own_word_first(known: Any) -> None:
    async with get_client() as client:
        parent = await client.create_flow_run(execution)
        run = await client.create_task_run(attempt, parent.id, dynamic_key="0", state=known())
        due = datetime.now(UTC) + timedelta(seconds=20)

        saying = asyncio.create_task(say_why(run.id, "no network", due))
        await asyncio.sleep(1.2)  # twice it looks
        assert (await client.read_task_run(run.id)).state_name == known().name
        assert not saying.done()
        await client.set_task_run_state(run.id, AwaitingRetry(scheduled_time=due), force=True)
        await asyncio.wait_for(saying, 15)

        shown = (await client.read_task_run(run.id)).state
    assert shown is not None
    assert (shown.name, shown.message) == ("AwaitingRetry", "no network")
