"""`prune_finished_tasks`: forgetting what is finished, as a flow that a deployment runs on a schedule."""

from prefect import flow

from flows.board import board
from flows.forms import DryRun, Kept
from flows.observe import ended_well, run_log, show_markdown, tag_flow_run, tags_of
from flows.patience import patiently
from nexus import PruneReport, Retention
from nexus.retention import ORDER


@flow(name="prune-finished-tasks", flow_run_name="prune")
async def prune_finished_tasks(retention: Kept = None, dry_run: DryRun = False) -> PruneReport:
    """Delete finished tasks that are past their bounds, with their attempts and history; and old passes of the sweep.

    Safe to repeat, to interrupt and to run twice at once: each batch stands for itself. At most
    `retention.max_per_run` tasks; the next run continues.

    Args:
        retention: What is kept; None is the settings' own, by which nothing goes unless they say so.
        dry_run: Say what would be deleted, and delete nothing.

    Raises `DatabaseUnavailable` where the database stays away.
    """
    await tag_flow_run(tags_of())
    nexus = board()
    bounds = retention or nexus.settings.retention
    report = await patiently(lambda: nexus.prune(bounds, dry_run=dry_run))
    if report.more:
        run_log().warning("the run was full after %s tasks: the next one continues", f"{report.tasks:,}")
    await show_markdown("nexus-prune", page(report, bounds), "What was forgotten")
    return ended_well(report, summary(report, bounds))


def summary(report: PruneReport, bounds: Retention) -> str:
    """One line."""
    counted = [(getattr(report, status), str(status)) for status in ORDER[::-1]]
    counted += [(report.sweeps, "sweeps on record"), (report.kept, "kept because something needs them")]
    idle = "nothing to forget" if bounds.is_set else "no retention is set: everything is kept"
    said = ", ".join(f"{number:,} {word}" for number, word in counted if number) or idle
    said += " (the run was full: the next one continues)" if report.more else ""
    return said + (" (dry run: nothing was deleted)" if report.dry_run else "")


def page(report: PruneReport, bounds: Retention) -> str:
    """The run as Markdown: what went, by which bounds, and how long it took."""
    lines = [f"**{summary(report, bounds)}**", "", "| | deleted | kept |", "|---|---|---|"]
    for status in ORDER[::-1]:
        own = bounds.of(status)
        kept = [f"{own.days:g} days"] if own.days is not None else []
        kept += [f"the newest {own.keep:,}"] if own.keep is not None else []
        lines.append(f"| {status} | {getattr(report, status):,} | {', '.join(kept) or 'for ever'} |")
    facts = {
        "attempts": report.attempts,
        "rows of history": report.history,
        "stalls": report.stalls,
        "sweeps on record": report.sweeps,
    }
    lines += [f"| {name} | {number:,} | |" for name, number in facts.items()]
    took = (report.finished_at - report.started_at).total_seconds()
    lines += ["", f"Started {report.started_at:%Y-%m-%d %H:%M:%S} UTC, took {took:.1f} s."]
    if report.kept:
        lines.append(f"{report.kept:,} more stay, because something needs them that is not done yet.")
    return "\n".join(lines)
