"""`nexus prune`: forget what is finished."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from nexus.cli.durations import UNITS, parse_seconds
from nexus.cli.output import MOST, USAGE, Json, at_most, emit, open_nexus, refuse, say
from nexus.cli.progress import progress_bar

if TYPE_CHECKING:
    from nexus import PruneReport, Retention


class Status(StrEnum):
    """What can be forgotten; of `nexus.states`, without loading the nexus for the help."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


def attach(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command()(prune)


def prune(
    context: typer.Context,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="AGE", help="What ended longer ago: 30d, 12h, 2w.")
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, callback=at_most(MOST), help="All but the newest N of each status."),
    ] = None,
    status: Annotated[
        list[Status] | None,
        typer.Option(
            "--status",
            "-s",
            metavar="STATUS",
            help="Only these; may be repeated. Dead letters (failed) go only where they are named, or set.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Delete finished tasks, with their attempts and history.

    Without --older-than and --keep, those that the settings no longer keep (retention). What something needs that is
    not done yet stays. So does what ended within the last hour (retention.grace_seconds): somebody may wait for its
    result. Only --older-than with a shorter age goes below that.
    """
    nexus = open_nexus(context)
    retention = _retention(nexus.settings.retention, older_than, keep, status)
    with progress_bar(as_json) as progress:
        report = nexus.prune(retention, dry_run=dry_run, progress=progress)
    emit(report, as_json, lambda: say(summary(report)))


def _retention(
    settings: "Retention", older_than: str | None, keep: int | None, status: list[Status] | None
) -> "Retention":
    """What is asked for, else what is set; wrong usage where that is nothing."""
    from nexus.states import TaskStatus

    if older_than is not None or keep is not None:
        asked = [TaskStatus(one) for one in status or (Status.COMPLETED, Status.CANCELLED)]
        return settings.asked(asked, None if older_than is None else days(older_than), keep)
    if status:
        settings = settings.only([TaskStatus(one) for one in status])
    if not settings.is_set:
        whose = f" {' or '.join(status)}" if status else ""
        refuse(f"By the settings (retention) no{whose} task ever goes; say --older-than 30d or --keep 1000.", USAGE)
    return settings


def days(text: str) -> float:
    """An age such as 30d, 12h, 2w; anything else is wrong usage."""
    return parse_seconds(text, "--older-than") / UNITS["d"]


def summary(report: "PruneReport") -> str:
    """One line."""
    counted = [(report.completed, "completed"), (report.failed, "failed"), (report.cancelled, "cancelled")]
    went = ", ".join(f"{number:,} {word}" for number, word in counted if number) or "no tasks"
    rows = [(report.attempts, "attempts"), (report.history, "rows of history"), (report.stalls, "stalls")]
    rows += [(report.sweeps, "sweeps on record")]
    others = ", ".join(f"{number:,} {word}" for number, word in rows if number)
    said = f"{'Would delete' if report.dry_run else 'Deleted'} {went}{f' ({others})' if others else ''}."
    if report.kept:
        said += f" {report.kept:,} stay, because something needs them that is not done yet."
    return said + (" The run was full: prune again." if report.more else "")
