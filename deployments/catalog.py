"""The deployments, as values: what can be started from outside, and what starts by itself."""

from collections.abc import Awaitable
from datetime import UTC, datetime
from inspect import getdoc
from typing import TYPE_CHECKING, Any, Final

from deployments.reap import TAG
from nexus.settings import NexusSettings

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.deployments.runner import RunnerDeployment

DEPLOYMENT: Final = "nexus"
"""The name after the slash: `process-agent-tasks/nexus`."""

EPISODE: Final = f"run-episode/{DEPLOYMENT}"
EXECUTE: Final = f"execute-task/{DEPLOYMENT}"
SHIFT: Final = f"process-agent-tasks/{DEPLOYMENT}"
SWEEP: Final = f"sweep-stalled-tasks/{DEPLOYMENT}"
BOARD: Final = f"show-board/{DEPLOYMENT}"
PRUNE: Final = f"prune-finished-tasks/{DEPLOYMENT}"

PAGE: Final = "nexus-board"
"""The key of the page that `BOARD` keeps up to date; `flows.overview` writes it."""

_MIDNIGHT: Final = datetime(2020, 1, 1, tzinfo=UTC)
"""What intervals of pruning are counted from. From the service's start, one longer than a working day never comes."""


async def deployments(settings: NexusSettings) -> "list[RunnerDeployment]":
    """Everything that the service serves. Imports Prefect, so the API's address must be known by now."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.schedules import Interval
    from prefect.types.entrypoint import EntrypointType

    from flows import (
        execute_task,
        process_agent_tasks,
        prune_finished_tasks,
        run_episode,
        show_board,
        sweep_stalled_tasks,
    )

    def deployed(flow: "Flow[..., Any]", **options: Any) -> "Awaitable[RunnerDeployment]":
        # Named as module.function, not as a file: a run then starts from whatever directory the service runs in.
        by_module = EntrypointType.MODULE_PATH
        return flow.ato_deployment(
            DEPLOYMENT, description=_about(flow), tags=[TAG], entrypoint_type=by_module, **options
        )

    retention = settings.retention
    # Never two sweeps at once, nor two prunings. A surplus one is cancelled, not queued: the next interval brings
    # another.
    alone = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    return [
        await deployed(execute_task),
        await deployed(process_agent_tasks),
        await deployed(run_episode),
        await deployed(
            sweep_stalled_tasks, interval=settings.monitoring.check_interval_seconds, concurrency_limit=alone
        ),
        await deployed(show_board, interval=settings.board.interval_seconds, concurrency_limit=alone),
        await deployed(
            prune_finished_tasks,
            # Where everything is kept, it runs only when somebody asks for it.
            schedule=Interval(retention.interval_seconds, anchor_date=_MIDNIGHT) if retention.is_set else None,
            concurrency_limit=alone,
        ),
    ]


def _about(flow: "Flow[..., Any]") -> str:
    """What the deployment's page says: the docstring without its parameters, which stand in the form."""
    paragraphs = (getdoc(flow.fn) or "").split("\n\n")
    return "\n\n".join(one for one in paragraphs if not one.startswith("Args:"))
