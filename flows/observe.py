"""What a person sees in the Prefect UI: names, tags, links from an attempt to its run, reports."""

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Set
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar
from uuid import UUID

from prefect import get_client, runtime
from prefect.artifacts import acreate_markdown_artifact, acreate_progress_artifact, aupdate_progress_artifact
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import ArtifactCollectionFilter, ArtifactCollectionFilterKey
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.states import Completed

from flows.board import board
from nexus import Claim
from nexus.masking import mask_of

T = TypeVar("T")

TAG = "nexus"
"""On every flow run of ours; what `deployments.reap` looks for."""


def attempt_name(claim: Claim) -> str:
    """The name of the run that makes the attempt of a claim: whose attempt at what."""
    return f"{claim.task_id} · attempt {claim.task.attempt_count + 1} · {claim.agent_id}"


logger = logging.getLogger("nexus.flows")


def tags_of(agent_id: str | None = None, episode_id: str | None = None, task_type: str | None = None) -> set[str]:
    """By what the UI's filters find a run."""
    named = {"agent": agent_id, "episode": episode_id, "type": task_type}
    return {TAG, *(f"{kind}:{name}" for kind, name in named.items() if name)}


async def tag_flow_run(tags: Set[str]) -> None:
    """Tag the flow run around the caller, beside what it is tagged with. Never fails the work."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or tags <= set(context.flow_run.tags):
        return
    together = sorted({*tags, *context.flow_run.tags})
    try:
        async with get_client() as client:
            await client.update_flow_run(context.flow_run.id, tags=together)
    except Exception as error:
        run_log().warning("no tags on this run: %s", error)
    else:
        context.flow_run.tags = together


def run_ref() -> dict[str, Any]:
    """The Prefect run around the caller, for the attempt's row. (task run, run count) is unique per attempt."""
    ids = {
        "flow_run_id": runtime.flow_run.id,
        "task_run_id": runtime.task_run.id,
        "run_count": runtime.task_run.run_count,
    }
    return {name: str(value) if name.endswith("_id") else value for name, value in ids.items() if value}


def run_log() -> logging.Logger | logging.LoggerAdapter[Any]:
    """The logger whose lines stand on the run's page."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logger


def ended_well(value: T, message: str, name: str = "Completed") -> T:
    """What a flow returns for `value`, with words (and a name) for the UI.

    Prefect gives the caller the state's data, which is `value`; only the type does not say so.
    """
    state: Any = Completed(name=name, message=message, data=value)
    return state  # type: ignore[no-any-return]


def ended_as(state: State[Any]) -> Any:
    """What a flow returns that ends in the state of the attempt it was there for."""
    return State(type=state.type, name=state.name, message=state.message)


def label_attempt(claim: Claim) -> None:
    """Name and tag the task run around the caller, as it is shown from its next state on.

    The name, because a run that is retried makes many attempts. The tags only now: with those that a run begins with
    Prefect looks for a limit to them first, which costs the first attempt under each new set of tags 0.1 s on an idle
    machine and two on a busy one.
    """
    context, task = TaskRunContext.get(), claim.task
    if context is not None:
        context.task_run.name = attempt_name(claim)
        context.task_run.tags = sorted(tags_of(claim.agent_id, task.episode_id, task.task_type))


def artifact_key(*parts: str) -> str:
    """Prefect's keys are lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-") or TAG


async def show_markdown(key: str, text: str, description: str) -> None:
    """A Markdown artifact on the run. One that fails never fails the work."""
    try:
        text = mask_of(board().settings, os.environ).text(text)
        await acreate_markdown_artifact(markdown=text, key=key, description=description)
    except Exception as error:
        run_log().warning("no artifact %s: %s", key, error)


async def show_standing(key: str, text: str, description: str) -> None:
    """A Markdown artifact that is replaced where it stands, not added to. One that fails never fails the work."""
    try:
        text = mask_of(board().settings, os.environ).text(text)
        wanted = ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(any_=[key]))
        async with get_client() as client:
            for standing in await client.read_latest_artifacts(artifact_filter=wanted):
                await client.update_artifact(standing.latest_id, ArtifactUpdate(data=text, description=description))
                return
        await acreate_markdown_artifact(markdown=text, key=key, description=description)
    except Exception as error:
        run_log().warning("no artifact %s: %s", key, error)


PROGRESS_SECONDS: Final = 2.0
"""Between two looks at how far a run is, at least."""

PROGRESS_SHARE: Final = 20
"""A look that takes long, on a large board, is followed by a rest of so many times as long."""


@asynccontextmanager
async def showing_progress(look: Callable[[], Awaitable[float]], key: str) -> AsyncIterator[None]:
    """A progress artifact on the run, kept up to date; at its end full, unless the run ended by an error."""
    creating = asyncio.create_task(_create_progress(key))
    shown = asyncio.create_task(_keep_progress(creating, look))
    try:
        yield
    except BaseException:
        creating.cancel()
        raise
    finally:
        # Work that is over at once does not cut in half how its artifact is made: nobody would know its number.
        shown.cancel()
        _, number = await asyncio.gather(shown, creating, return_exceptions=True)
    if isinstance(number, UUID):
        await _update_progress(number, 100.0)


async def _create_progress(key: str) -> UUID | None:
    try:
        return await acreate_progress_artifact(0.0, key=key, description="How far it is")
    except Exception as error:
        run_log().warning("no progress on this run: %s", error)
        return None


async def _keep_progress(creating: "asyncio.Task[UUID | None]", look: Callable[[], Awaitable[float]]) -> None:
    number, took = await asyncio.shield(creating), 0.0
    while number is not None:
        await asyncio.sleep(max(PROGRESS_SECONDS, PROGRESS_SHARE * took))
        began = time.monotonic()
        try:
            percent = await look()
        except Exception as error:
            run_log().warning("no progress on this run: %s", error)
            return
        took = time.monotonic() - began
        await _update_progress(number, percent)


async def _update_progress(number: UUID, percent: float) -> None:
    try:
        await aupdate_progress_artifact(number, progress=min(100.0, percent))
    except Exception as error:
        run_log().warning("no progress on this run: %s", error)
