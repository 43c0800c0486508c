"""`run_episode`: a named batch, its agents side by side until none of its tasks can move any more."""

import asyncio
from typing import Final

from prefect import flow

from flows.board import board
from flows.endings import stops_in_order
from flows.forms import Agents, Concurrency, EpisodeId, Lease
from flows.handlers import runnable_types
from flows.observe import artifact_key, ended_well, run_log, show_markdown, showing_progress, tag_flow_run, tags_of
from flows.relay import relaying
from flows.reports import EpisodeReport
from flows.shift import Shift
from flows.sweep import summary
from nexus import TaskNexus
from nexus.states import TERMINAL

SWEEP_SECONDS: Final = 5.0
"""An episode takes back expired leases itself: it must not hang because nobody runs the scheduled sweep."""


@flow(name="run-episode", flow_run_name="episode {episode_id}")
@stops_in_order
async def run_episode(
    episode_id: EpisodeId,
    agents: Agents = ["Agent-1", "Agent-2", "Agent-3"],  # noqa: B006 - Prefect shows the default in its form
    concurrency: Concurrency = 2,
    lease_seconds: Lease = None,
) -> EpisodeReport:
    """Work an episode to its end with `agents`, side by side, each with up to `concurrency` tasks at once.

    All of it is one flow run, with a task run per attempt.

    It ends when every task is terminal, or when what is left cannot move without a person, another agent or
    another handler; the report says which and why. A Markdown report is kept as an artifact.

    Args:
        episode_id: The named batch to work through.
        agents: Who works on it, side by side.
        concurrency: Tasks that each agent works on at once, 1 to 100.
        lease_seconds: How long a claim holds without a heartbeat; None is the setting.

    Raises `AgentNotConfirmed`.
    """
    # A sub-flow per agent would read as well, but takes the server about two seconds each, and on SQLite now and then
    # a minute.
    nexus = board()
    await tag_flow_run({tag for agent_id in agents for tag in tags_of(agent_id, episode_id)})
    started_at = await asyncio.to_thread(nexus.now)
    types = runnable_types(nexus.settings)
    agents = list(dict.fromkeys(agents))
    for agent_id in agents:
        await asyncio.to_thread(nexus.confirm_agent, agent_id, task_types=types)
    lease = lease_seconds or nexus.settings.lease_seconds
    shifts = [Shift(nexus, agent_id, concurrency, types, episode_id, None, lease) for agent_id in agents]

    async def progress() -> float:
        counted = await asyncio.to_thread(nexus.stats, episode_id)
        return 100 * sum(counted[status] for status in TERMINAL) / max(1, counted.total())

    key = artifact_key("nexus-progress", episode_id)
    async with relaying(nexus), showing_progress(progress, key):
        sweeping = asyncio.create_task(_sweep_now_and_then(nexus))
        working = [asyncio.create_task(shift.work(wait=True, beside=agents)) for shift in shifts]
        try:
            await asyncio.gather(*working)
        finally:
            for running in (*working, sweeping):
                running.cancel()
            await asyncio.gather(*working, sweeping, return_exceptions=True)
    await tag_flow_run(set().union(*(shift.tags for shift in shifts)))
    tasks = await asyncio.to_thread(nexus.get_all_tasks, episode_id=episode_id)
    attempts = await asyncio.to_thread(nexus.attempts_by_task, [task.task_id for task in tasks])
    _, left = await asyncio.to_thread(nexus.stuck, agents, types, episode_id=episode_id)
    report = EpisodeReport(
        episode_id=episode_id,
        started_at=started_at,
        finished_at=await asyncio.to_thread(nexus.now),
        tasks=tuple(tasks),
        attempts={task_id: tuple(tried) for task_id, tried in attempts.items()},
        left=left,
    )
    await show_markdown(artifact_key("nexus-episode", episode_id), report.markdown(), f"How {episode_id} ended")
    return ended_well(report, report.summary())


async def _sweep_now_and_then(nexus: TaskNexus) -> None:
    while True:
        try:
            report = await asyncio.to_thread(nexus.sweep, source="episode")
            if report.items:
                run_log().warning("sweep: %s", summary(report))
        except Exception as error:
            run_log().warning("the sweep failed and is tried again: %s", error)
        await asyncio.sleep(SWEEP_SECONDS)
