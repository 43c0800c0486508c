"""Why a run of Prefect's awaits its retry: Prefect (3.8) makes that state by itself, at once, and without a word."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import AwaitingRetry

from flows.observe import run_log

WITHIN: Final = timedelta(seconds=1)
"""What comes so soon is awaited without a word; nor is a word still sent so shortly before the retry."""

BETWEEN_SECONDS: Final = 0.5
"""How long Prefect is given to write the run down, before each try: a server that is not tuned lags ten seconds."""


async def say_why(task_run_id: UUID, reason: str, due: datetime) -> None:
    """Give the run that awaits its retry, which is `due` then, its state once more, with the reason as message.

    Only once the server has written down that it waits: the name and the tags of the attempt come with that state,
    and a server passes over what is older than the state it knows. Never fails the work.
    """
    failed: object = None
    while (left := due - WITHIN - datetime.now(UTC)) > timedelta(seconds=BETWEEN_SECONDS):
        await asyncio.sleep(BETWEEN_SECONDS)
        state: State[None] = AwaitingRetry(scheduled_time=due, message=reason)
        try:
            async with asyncio.timeout(left.total_seconds()), get_client() as client:
                run = await client.read_task_run(task_run_id)
                if _awaits(run):
                    await client.set_task_run_state(task_run_id, state, force=True)
                    return
                failed = f"to the server it is still {run.state_name}"
        except Exception as error:
            failed = error
    if failed:
        run_log().info("the run does not say why it awaits its retry: %s", failed)


def _awaits(run: TaskRun) -> bool:
    """Whether the server knows of this retry; one that is due already is of the attempt before."""
    state = run.state
    due = state.state_details.scheduled_time if state and state.name == "AwaitingRetry" else None
    return due is not None and due > datetime.now(UTC)
