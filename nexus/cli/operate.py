"""The verbs of operators and reviewers: cancel, retry, approve, reject, block, unblock."""

from typing import TYPE_CHECKING, Annotated

import typer

from nexus.cli.output import Actor, Json, TaskId, emit, open_nexus, say

if TYPE_CHECKING:
    from nexus import Task

Reviewer = Annotated[
    str, typer.Option("--by", metavar="NAME", help="Who reviews; never the agent who did it.", envvar="NEXUS_AGENT")
]


def attach(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    for verb in (cancel, retry, approve, reject, block, unblock):
        app.command()(verb)


def _moved(task: "Task", as_json: bool) -> None:
    emit(task, as_json, lambda: say(f"{task.task_id}: {task.status}."))


def cancel(
    context: typer.Context,
    task_id: TaskId,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; kept with the task.")] = None,
    by: Actor = None,
    as_json: Json = False,
) -> None:
    """End a task, also one that is worked on.

    Its agent hears of it at its next heartbeat.
    """
    _moved(open_nexus(context).cancel(task_id, reason, actor=by), as_json)


def retry(context: typer.Context, task_id: TaskId, by: Actor = None, as_json: Json = False) -> None:
    """Offer a failed, stalled or cancelled task again.

    Its budget of attempts is renewed, its history is kept.
    """
    _moved(open_nexus(context).retry(task_id, actor=by), as_json)


def approve(
    context: typer.Context,
    task_id: TaskId,
    by: Reviewer,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Kept with the task.")] = None,
    as_json: Json = False,
) -> None:
    """Agree with a task in review: it is completed."""
    _moved(open_nexus(context).approve(task_id, by, note), as_json)


def reject(
    context: typer.Context,
    task_id: TaskId,
    by: Reviewer,
    note: Annotated[str, typer.Option(metavar="TEXT", help="What is wrong; goes to the next attempt.")],
    as_json: Json = False,
) -> None:
    """Disagree with a task in review: it is offered again.

    The note goes to the next attempt.
    """
    _moved(open_nexus(context).reject(task_id, by, note), as_json)


def block(
    context: typer.Context,
    task_id: TaskId,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; shown by `nexus explain`.")],
    by: Actor = None,
    as_json: Json = False,
) -> None:
    """Keep a task from being worked on until it is unblocked."""
    _moved(open_nexus(context).block(task_id, reason, actor=by), as_json)


def unblock(context: typer.Context, task_id: TaskId, by: Actor = None, as_json: Json = False) -> None:
    """Offer a blocked task again."""
    _moved(open_nexus(context).unblock(task_id, actor=by), as_json)
