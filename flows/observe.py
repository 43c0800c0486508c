"""What a person sees in the Prefect UI: names, tags, links from an attempt to its run, reports."""

import logging
import os
import re
from typing import Any, TypeVar
from uuid import UUID

from prefect import get_client, runtime
from prefect.artifacts import acreate_markdown_artifact
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.states import Completed

from flows.board import board
from nexus.masking import mask_of

T = TypeVar("T")

TAG = "nexus"
"""On every flow run of ours; what `deployments.reap` looks for."""

ATTEMPT_NAME = "{task_id} · attempt {number} · {agent_id}"
"""The name of a task run."""

logger = logging.getLogger("nexus.flows")


async def tag_flow_run(agent_id: str | None = None, episode_id: str | None = None) -> None:
    """Tag the flow run around the caller, for the UI's filters. Never fails the work.

    Task runs get no tags: each new set costs Prefect a concurrency check of its own, 0.1 s on an idle machine and
    two on a busy one, before the first attempt under it begins. Their names say whose they are.
    """
    few = {TAG, *([f"agent:{agent_id}"] if agent_id else []), *([f"episode:{episode_id}"] if episode_id else [])}
    known = set(runtime.flow_run.tags or ())
    if runtime.flow_run.id is None or few <= known:
        return
    try:
        async with get_client() as client:
            await client.update_flow_run(UUID(runtime.flow_run.id), tags=sorted(known | few))
    except Exception as error:
        run_log().warning("no tags on this run: %s", error)


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
