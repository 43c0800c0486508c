"""The verbs that keep the board moving: sweep, stalls, pause, resume."""

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nexus.cli.output import (
    MOST,
    REFUSED,
    USAGE,
    Actor,
    Json,
    at_most,
    emit,
    flat,
    open_nexus,
    refuse,
    say,
    table,
    when,
)

if TYPE_CHECKING:
    from nexus import TaskMonitoringConfig, TaskNexus
    from nexus.reports import Stall, Waits

TaskType = Annotated[
    str, typer.Argument(metavar="TYPE", help="A task type; left out: the whole board.", show_default=False)
]


def attach(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    for verb in (sweep, stalls, pause, resume):
        app.command()(verb)


def sweep(
    context: typer.Context,
    strategy: Annotated[
        Literal["log_only", "notify", "reassign", "escalate", "mark_stalled", "fail"] | None,
        typer.Option(help="What to do about tasks that wait too long, where no policy says; default: the setting."),
    ] = None,
    pending_timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Waiting longer is too long; default: the setting.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if",
            metavar="KEY=VALUE",
            help="Replay the record with this monitoring setting (pending_timeout_seconds=1200); may be repeated.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Look after what is stuck, once and now.

    Takes back expired leases, ends what runs too long, and acts on tasks that wait too long or are past their
    deadline: each step once per waiting period.
    """
    nexus = open_nexus(context)
    given = {"escalation_strategy": strategy, "pending_timeout_seconds": pending_timeout}
    config = _config(nexus, {name: value for name, value in given.items() if value is not None}, what_if or ())
    if what_if:
        return _replay(nexus, config, as_json)
    report = nexus.sweep(config, dry_run=dry_run, source="command")

    def show() -> None:
        if report.items:
            rows = [(one.task_id, one.action, flat(one.detail)) for one in report.items]
            table(["task", "action", "detail"], rows, whole=("action",), ids=("task",))
        more = " The pass was full: sweep again." if report.more else ""
        acted = f"would act {len(report.items)} times; nothing was done" if dry_run else f"acted on {len(report.items)}"
        say(f"Looked at {report.scanned}, {acted}.{more}")

    emit(report, as_json, show)
    if report.skipped:
        refuse(f"{report.skipped} rows could not be read and were skipped; `nexus doctor` says more.", REFUSED)
    return None


def _config(nexus: "TaskNexus", asked: dict[str, Any], changes: list[str] | tuple[str, ...]) -> "TaskMonitoringConfig":
    """The settings' own, with what was asked for; wrong usage where it cannot be."""
    from pydantic import ValidationError

    from nexus.errors import InvalidSettings
    from nexus.intake import faults

    config = nexus.settings.monitoring
    values = config.model_dump() | asked
    for change in changes:
        key, equals, text = change.partition("=")
        section = values
        *path, name = key.strip().split(".")
        for part in path:
            section = section.get(part)  # type: ignore[assignment]
            if not isinstance(section, dict):
                refuse(f"--what-if: there is no section {part!r} in the monitoring settings.", USAGE)
        if not equals or name not in section:
            refuse(f"--what-if: {change!r} is no KEY=VALUE; the keys here are {', '.join(section)}.", USAGE)
        section[name] = _value(text)
    try:
        return type(config).model_validate(values)
    except ValidationError as error:
        if changes:
            refuse(f"--what-if: {faults(error)}.", USAGE)
        raise InvalidSettings(faults(error)) from None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _replay(nexus: "TaskNexus", config: "TaskMonitoringConfig", as_json: bool) -> None:
    found = nexus.what_if(config)

    def row(name: str, waits: "Waits") -> tuple[Any, ...]:
        after = (waits.recovered_after_p50, waits.recovered_after_p95, waits.recovered_after_max)
        soon = ["" if one is None else f"{one:,.0f}" for one in after]
        rest = (waits.ended_otherwise, waits.still_waiting)
        return (name, waits.periods, waits.flagged, waits.recovered, *soon, *rest)

    def show() -> None:
        rows = [row(name, waits) for name, waits in found.by_type.items()]
        columns = ["type", "waits", "flagged", "recovered", "p50 s", "p95 s", "max s", "ended", "waiting"]
        table(columns, [*rows, row("all", found.total)], right=columns[1:])
        total = found.total
        flagged = f"{total.flagged} of {total.periods} waits would have been flagged"
        alone = f"{total.recovered} of these recovered by themselves (p50, p95, max: how long after)"
        say(f"{flagged}; {alone}. Nothing was done." if total.periods else "No waiting period is on record yet.")

    emit(found, as_json, show)


def stalls(
    context: typer.Context,
    task_id: Annotated[
        str | None, typer.Argument(metavar="TASK", help="Of this task; left out: of the board.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are closed.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, callback=at_most(MOST), metavar="N", help="At most so many.")
    ] = 100,
    as_json: Json = False,
) -> None:
    """Waits that were too long, why, and what was done.

    Also deadlines that passed.
    """
    found = open_nexus(context).stalls(task_id, open_only=not everything and task_id is None, limit=limit)

    # Where nothing is to come, the reasons get its place.
    goes_on = any(stall.closed_at or stall.next_step_at for stall in found)

    def row(stall: "Stall") -> tuple[Any, ...]:
        done = ", ".join(step.step for step in stall.steps)
        ends = f"closed by {stall.closed_by}" if stall.closed_at else when(stall.next_step_at)
        return (stall.task_id, stall.kind, when(stall.since), done, *([ends] if goes_on else []), flat(stall.why))

    def show() -> None:
        if found:
            columns = ["task", "kind", "since (UTC)", "done", *(["next step"] if goes_on else []), "why"]
            table(columns, map(row, found), whole=("kind", "since (UTC)", "next step"), ids=("task",))
        else:
            say("Nothing is stalled." if task_id is None else f"{task_id} has not been stalled.")

    emit(found, as_json, show)


def pause(
    context: typer.Context,
    task_type: TaskType = "*",
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; shown by `nexus explain`.")] = None,
    by: Actor = None,
    as_json: Json = False,
) -> None:
    """Offer nothing for a while.

    Of one task type, or of the whole board. What is held goes on; nobody lets a paused task wait.
    """
    paused = open_nexus(context).pause(task_type, reason, actor=by)
    what = "The board is" if task_type == "*" else f"Tasks of type {task_type!r} are"
    again = "nexus resume" if task_type == "*" else f"nexus resume {task_type}"
    emit(paused, as_json, lambda: say(f"{what} paused; `{again}` goes on."))


def resume(context: typer.Context, task_type: TaskType = "*", by: Actor = None, as_json: Json = False) -> None:
    """Offer tasks again after a pause. Their waiting begins anew."""
    nexus = open_nexus(context)
    if not nexus.resume(task_type, actor=by):
        refuse("The board is not paused." if task_type == "*" else f"Tasks of type {task_type!r} are not paused.")
    emit(nexus.pauses(), as_json, lambda: say("Offered again."))
