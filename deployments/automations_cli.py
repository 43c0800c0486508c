"""`nexus automations`: what Prefect does by itself about what happens on the board."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Final

import typer

from nexus.cli.output import Json, emit, refuse, say, table, when

if TYPE_CHECKING:
    from deployments.automating import Change
    from nexus import NexusSettings
    from nexus.settings import OnCompleted

NO_BLOCK: Final = (
    "Nobody is told anything: no notification block is named. Make one in the Prefect UI under Blocks, and name it "
    "with --notify or automations.notify_block, as in slack-webhook/ops."
)

app = typer.Typer(help="Let Prefect tell people, and start runs.", no_args_is_help=True)


@app.command()
def apply(
    notify: Annotated[
        str | None,
        typer.Option(
            metavar="KIND/NAME",
            help="The Prefect notification block through which people are told, such as slack-webhook/ops. "
            "Default: automations.notify_block, else monitoring.notify_block.",
        ),
    ] = None,
    on_completed: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TAG=FLOW/DEPLOYMENT",
            help="Run the deployment whenever a task with this tag completes; may be repeated. "
            "In place of automations.on_completed.",
        ),
    ] = None,
    task_id_as: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The parameter of these runs that gets the completed task's id."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the automations, or bring them up to date.

    A second time changes nothing.

    People are told of tasks that are stalled, of dead letters, and of a sweep that is late: later than two intervals.
    Deployments run when tasks complete.

    Where monitoring.notify_block names the same block, the sweep itself tells it of stalled tasks, with or without
    automations; then no automation does, so that nobody is told twice.

    What somebody has switched off in Prefect stays off. Automations that are not named stay as they are: see remove.
    """
    from deployments.prefect_server import running_server
    from nexus import NexusSettings

    settings = NexusSettings.load()
    block, runs = _chosen(settings, notify, on_completed, task_id_as)
    if block is None and not runs:
        refuse(NO_BLOCK)
    with running_server(settings):
        from deployments.automating import apply as put

        changes = asyncio.run(put(settings, block, runs))
    for note in _notes(settings, block):
        say(note)
    _show_changes(changes, as_json)


@app.command("list")
def list_automations(as_json: Json = False) -> None:
    """Show what sets each off, and what it does.

    And when it was set off last, as far back as Prefect keeps events.
    """
    from deployments.prefect_server import running_server
    from nexus import NexusSettings

    with running_server(NexusSettings.load()):
        from deployments.automating import show

        found = asyncio.run(show())

    def draw() -> None:
        if not found:
            say("No automations of the nexus yet: nexus automations apply makes them.")
            return
        rows = [
            (one.name, one.listens_to, one.does, "yes" if one.enabled else "no", when(one.last_triggered))
            for one in found
        ]
        table(["automation", "listens to", "does", "on", "last (UTC)"], rows)

    emit(found, as_json, draw)


@app.command()
def remove(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="As list shows them, with or without nexus: in front."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every automation of the nexus.")] = False,
    as_json: Json = False,
) -> None:
    """Take automations of the nexus out of Prefect.

    Those that others made are never touched.
    """
    from deployments.prefect_server import running_server
    from nexus import NexusSettings

    if bool(names) == every:
        raise typer.BadParameter("Say which: names, or --all.")

    with running_server(NexusSettings.load()):
        from deployments.automating import remove as take

        changes = asyncio.run(take(None if every else names or []))
    _show_changes(changes, as_json)


def _chosen(
    settings: "NexusSettings", notify: str | None, on_completed: list[str] | None, task_id_as: str | None
) -> "tuple[str | None, tuple[OnCompleted, ...]]":
    """What the options say, else the settings. Wrong usage where they cannot be."""
    import re

    from pydantic import ValidationError

    from nexus.monitoring import BLOCK
    from nexus.settings import OnCompleted

    if notify is not None and not re.fullmatch(BLOCK.strip("^$"), notify):
        raise typer.BadParameter(f"{notify!r} is no block: its kind and its name, as in slack-webhook/ops.")
    block = notify or settings.automations.notify_block or settings.monitoring.notify_block
    if not on_completed:
        if task_id_as:
            raise typer.BadParameter("--task-id-as goes with --on-completed.")
        return block, settings.automations.on_completed
    runs = []
    for given in on_completed:
        tag, _, deployment = given.rpartition("=")
        try:
            runs.append(OnCompleted(tag=tag, deployment=deployment, task_id_as=task_id_as))
        except ValidationError as error:
            wrong = error.errors()[0]["loc"][0]
            if wrong == "task_id_as":
                raise typer.BadParameter(f"{task_id_as!r} cannot be a parameter's name.") from None
            raise typer.BadParameter(f"{given!r} is not TAG=FLOW/DEPLOYMENT, as in deploy=ship/prod.") from None
    return block, tuple(runs)


def _notes(settings: "NexusSettings", block: str | None) -> list[str]:
    """What a person would wonder about later."""
    notes = [NO_BLOCK] if block is None else []
    if block is not None and block == settings.monitoring.notify_block:
        notes.append(f"Of stalled tasks the sweep itself tells {block} (monitoring.notify_block): no automation does.")
    elif block is not None and not any(
        step.action == "notify" for ladder in settings.monitoring.ladders for step in ladder.steps
    ):
        notes.append("No ladder has the step notify: of stalled tasks nobody will be told (monitoring.policies).")
    if not settings.events.enabled:
        notes.append("events.enabled is off: Prefect hears neither of dead letters nor of tasks that complete.")
    return notes


def _show_changes(changes: "list[Change]", as_json: bool) -> None:
    def show() -> None:
        if changes:
            table(["automation", "now"], [(one.name, one.change) for one in changes])
        else:
            say("Nothing to do.")

    emit(changes, as_json, show)
