"""Why a run of Prefect's awaits its retry: Prefect (3.8) makes that state by itself, at once, and without a word."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import State
from prefect.states import AwaitingRetry

from flows.observe import run_log

WITHIN: Final = timedelta(seconds=1)
"""What comes so soon is awaited without a word; nor is a word still sent so shortly before the retry."""

BETWEEN_SECONDS: Final = 0.5
"""How long Prefect is given to write the run down, before each try: a server that is not tuned lags ten seconds."""


async def say_why(task_run_id: UUID, reason: str, due: datetime) -> None:
    """Give the run that awaits its retry, which is `due` then, its state once more, with the reason as message.

    The state that follows is later, and so it stands whatever comes in between. Never fails the work.
    """
    failed: Exception | None = None
    while (left := due - WITHIN - datetime.now(UTC)) > timedelta(seconds=BETWEEN_SECONDS):
        await asyncio.sleep(BETWEEN_SECONDS)
        state: State[None] = AwaitingRetry(scheduled_time=due, message=reason)
        try:
            async with asyncio.timeout(left.total_seconds()), get_client() as client:
                await client.set_task_run_state(task_run_id, state, force=True)
        except Exception as error:
            failed = error
        else:
            return
    if failed is not None:
        run_log().info("the run does not say why it awaits its retry: %s", failed)
