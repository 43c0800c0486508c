"""`sweep_stalled_tasks`: one pass of the sweep, as a flow that a deployment runs on a schedule."""

import asyncio
from typing import Final

from prefect import flow

from flows.board import board
from flows.observe import ended_well, run_log, show_table, tag_flow_run
from nexus import SweepReport, TaskMonitoringConfig
from nexus.errors import DatabaseUnavailable

TRIES: Final = 3
PAUSE_SECONDS: Final = 5.0
"""A pass is idempotent, so a database that was away for a moment costs nothing but the wait."""


@flow(name="sweep-stalled-tasks", flow_run_name="sweep")
async def sweep_stalled_tasks(config: TaskMonitoringConfig | None = None) -> SweepReport:
    """Take back what is held under a lease that is over, and act on what waits too long, once per waiting period.

    Safe to repeat and to run twice at once. At most `config.max_per_sweep` tasks of each kind; the next pass
    continues.

    Args:
        config: What to do about tasks that wait too long; None is the settings' own.

    Raises `DatabaseUnavailable` where the database stays away.
    """
    await tag_flow_run()
    report = await _swept(config)
    if report.items:
        rows = [
            {"task": item.task_id, "action": item.action, "waited (s)": item.waiting_seconds, "detail": item.detail}
            for item in report.items
        ]
        await show_table("nexus-sweep", rows, "What the sweep found, and what it did")
    for item in report.items[:100]:
        run_log().warning("%s: %s (%s)", item.task_id, item.action, item.detail)
    return ended_well(report, summary(report))


async def _swept(config: TaskMonitoringConfig | None) -> SweepReport:
    # Not by Prefect's flow retries: with them 3.8.8 raises the first error even when the second try went well.
    for _ in range(TRIES - 1):
        try:
            return await asyncio.to_thread(_sweep, config)
        except DatabaseUnavailable as error:
            run_log().warning("%s Trying again.", error)
            await asyncio.sleep(PAUSE_SECONDS)
    return await asyncio.to_thread(_sweep, config)


def _sweep(config: TaskMonitoringConfig | None) -> SweepReport:
    return board().sweep(config)


def summary(report: SweepReport) -> str:
    """One line."""
    counted = [
        (report.expired, "leases expired"),
        (report.failed, "dead letters"),
        (report.logged, "logged"),
        (report.stalled, "marked as stalled"),
        (report.reassigned, "reassigned"),
        (report.escalated, "escalated"),
        (report.conflicts, "moved on meanwhile"),
    ]
    said = ", ".join(f"{number} {word}" for number, word in counted if number) or "nothing stuck"
    return said + (" (the pass was full: the next one continues)" if report.more else "")
