"""`sweep_stalled_tasks`: one pass of the sweep, as a flow that a deployment runs on a schedule."""

from typing import Final

from prefect import flow
from prefect.events import emit_event

from flows.board import board
from flows.forms import Monitoring
from flows.notify import deliver
from flows.observe import ended_well, run_log, show_markdown, tag_flow_run, tags_of
from flows.patience import patiently
from flows.relay import relaying
from flows.reports import cell
from flows.truth import Aligned, align
from nexus import SweepReport, TaskMonitoringConfig

ROWS: Final = 500
"""Of a table on a page; the report has all."""

FINISHED: Final = "nexus.sweep.finished"
"""The event at the end of each pass. An automation that waits for the next one in vain knows that sweeps are late."""

RESTING: Final = "nexus.sweep.resting"
"""The event at the end of a service that sweeps: no sweep comes until somebody starts it again, and none is late."""


@flow(name="sweep-stalled-tasks", flow_run_name="sweep")
async def sweep_stalled_tasks(config: Monitoring = None) -> SweepReport:
    """Take back what is held under a lease that is over, and act on what waits too long, once per waiting period.

    Afterwards people are told what the sweep put down for them, and Prefect what became of runs that were lost, and
    that the pass is over: the event `nexus.sweep.finished`.

    Safe to repeat and to run twice at once. At most `config.max_per_sweep` tasks of each kind; the next pass
    continues.

    Args:
        config: What to do about tasks that wait too long; None is the settings' own.

    Raises `DatabaseUnavailable` where the database stays away.
    """
    await tag_flow_run(tags_of())
    nexus = board()
    async with relaying(nexus):
        report = await patiently(lambda: _sweep(config))
    for item in report.items[:100]:
        run_log().warning("%s: %s (%s)", item.task_id, item.action, item.detail)
    told = await deliver(nexus, (config or nexus.settings.monitoring).notify_block)
    aligned = await align(nexus)
    for line in (*aligned.ended, *aligned.closed):
        run_log().warning("%s", line)
    await show_markdown("nexus-sweep", page(report, told, aligned), "What the sweep found, and what it did")
    _tell_finished(report, aligned)
    return ended_well(report, summary(report, len(aligned.ended)))


def _tell_finished(report: SweepReport, aligned: Aligned) -> None:
    """Queued for a thread of Prefect's own: it neither fails nor delays the sweep."""
    try:
        emit_event(
            event=FINISHED,
            resource={"prefect.resource.id": "nexus.sweep", "prefect.resource.name": "sweep"},
            payload={
                **report.model_dump(mode="json", exclude={"items"}),
                "summary": summary(report, len(aligned.ended)),
            },
        )
    except Exception as error:
        run_log().warning("nobody is told that the sweep is over: %s", error)


def _sweep(config: TaskMonitoringConfig | None) -> SweepReport:
    return board().sweep(config, source="deployment")


def summary(report: SweepReport, taken_back: int = 0) -> str:
    """One line. `taken_back`: claims that were ended because Prefect knew their runs to be over."""
    counted = [
        (report.expired, "leases expired"),
        (taken_back, "taken back from runs that are over"),
        (report.timed_out, "timed out"),
        (report.failed, "dead letters"),
        (report.logged, "logged"),
        (report.notified, "notified"),
        (report.stalled, "marked as stalled"),
        (report.reassigned, "reassigned"),
        (report.escalated, "escalated"),
        (report.withdrawn, "escalations withdrawn"),
        (report.conflicts, "moved on meanwhile"),
        (report.skipped, "rows skipped"),
    ]
    said = ", ".join(f"{number} {word}" for number, word in counted if number) or "nothing stuck"
    return said + (" (the pass was full: the next one continues)" if report.more else "")


def page(report: SweepReport, told: int, aligned: Aligned) -> str:
    """The pass as Markdown: its own record, then a table of what it did. At most `ROWS` rows."""
    ended = len(aligned.ended)
    lines = [f"**{summary(report, ended)}**", "", "| | |", "|---|---|"]
    facts = {
        "started": f"{report.started_at:%Y-%m-%d %H:%M:%S} UTC",
        "finished": f"{report.finished_at:%Y-%m-%d %H:%M:%S} UTC",
        "looked at": report.scanned + ended,
        "acted": len(report.items) - report.skipped + ended,
        "conflicts": report.conflicts,
        "notices delivered": told,
        "runs closed in Prefect": len(aligned.closed),
        "claims ended because Prefect knew": ended,
        "settings": report.settings_hash,
    }
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    if report.items:
        lines += ["", "| task | action | waited, s | detail |", "|---|---|---|---|"]
        for item in report.items[:ROWS]:
            waited = "" if item.waiting_seconds is None else f"{item.waiting_seconds:.0f}"
            lines.append(f"| {cell(item.task_id)} | {item.action} | {waited} | {cell(item.detail)} |")
        if len(report.items) > ROWS:
            lines += ["", f"… and {len(report.items) - ROWS:,} more"]
    lines += ["", *(f"- {cell(line)}" for line in (*aligned.ended, *aligned.closed)[:ROWS])]
    return "\n".join(lines).rstrip()
