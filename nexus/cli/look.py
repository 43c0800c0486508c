"""The verbs that add and look: add, list, show, history, explain."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus.cli.links import run_lines
from nexus.cli.output import (
    MOST,
    USAGE,
    Actor,
    Json,
    TaskId,
    at_most,
    emit,
    facts,
    flat,
    mask,
    open_nexus,
    parse_json,
    print_json,
    refuse,
    say,
    status_text,
    table,
    when,
)
from nexus.errors import TaskNotFound

if TYPE_CHECKING:
    from nexus import Attempt, Task, TaskNexus


def attach(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command()(add)
    app.command("list")(list_tasks)
    for verb in (show, history, explain):
        app.command()(verb)


def add(
    context: typer.Context,
    description: Annotated[
        str, typer.Argument(metavar="DESCRIPTION", help="What is to be done.", show_default=False)
    ] = "",
    task_id: Annotated[str | None, typer.Option("--id", metavar="ID", help="Made by the nexus when absent.")] = None,
    task_type: Annotated[
        str, typer.Option("--type", "-t", metavar="TYPE", help="Names the handler that does it.")
    ] = "task",
    payload: Annotated[
        str | None, typer.Option("--payload", "-p", metavar="JSON", help="JSON object, @file, or - for stdin.")
    ] = None,
    priority: Annotated[
        str, typer.Option(metavar="PRIORITY", help="critical, high, medium, low, or an integer: smaller is first.")
    ] = "medium",
    tag: Annotated[list[str] | None, typer.Option(metavar="TAG", help="May be repeated.")] = None,
    depends_on: Annotated[
        list[str] | None, typer.Option(metavar="TASK", help="A task to wait for; may be repeated.")
    ] = None,
    capability: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="What its agent must be able to; may be repeated.")
    ] = None,
    assign: Annotated[str | None, typer.Option(metavar="AGENT", help="Only this agent may claim it.")] = None,
    max_attempts: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Failures after which it is a dead letter; default: the setting."),
    ] = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="That an attempt may take.")] = None,
    review: Annotated[bool, typer.Option("--review", help="Completed only when somebody else approves.")] = False,
    not_before: Annotated[
        str | None, typer.Option(metavar="TIME", help="Not offered before this time, such as 2026-12-01T08:00:00Z.")
    ] = None,
    episode: Annotated[str | None, typer.Option(metavar="EPISODE", help="The named batch that it belongs to.")] = None,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Idempotency key: adding twice adds once.")] = None,
    by: Actor = None,
    as_json: Json = False,
) -> None:
    """Add a task. Prints its id."""
    nexus = open_nexus(context)
    given: dict[str, Any] = {
        "task_id": task_id,
        "task_type": task_type,
        "description": description,
        "payload": parse_json(payload, "--payload") if payload is not None else None,
        "priority": priority,
        "tags": tag,
        "depends_on": depends_on,
        "required_capabilities": capability,
        "assigned_to": assign,
        "retry_policy": nexus.settings.retry.model_dump() | {"max_attempts": max_attempts} if max_attempts else None,
        "timeout_seconds": timeout,
        "requires_review": review,
        "available_at": not_before,
        "episode_id": episode,
        "idempotency_key": key,
    }
    task = nexus.add_task({name: value for name, value in given.items() if value is not None}, actor=by)
    emit(task, as_json, lambda: print(task.task_id))  # noqa: T201


def list_tasks(
    context: typer.Context,
    status: Annotated[
        list[str] | None, typer.Option("--status", "-s", metavar="STATUS", help="Only in this status; may be repeated.")
    ] = None,
    task_type: Annotated[
        str | None, typer.Option("--type", "-t", metavar="TYPE", help="Only of this task type.")
    ] = None,
    tag: Annotated[str | None, typer.Option(metavar="TAG", help="Only with this tag.")] = None,
    agent: Annotated[
        str | None, typer.Option("--agent", "-a", metavar="AGENT", help="Held by, or assigned to.")
    ] = None,
    episode: Annotated[str | None, typer.Option(metavar="EPISODE", help="Only of this episode.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, callback=at_most(MOST), metavar="N", help="At most so many.")
    ] = 100,
    after: Annotated[str | None, typer.Option(metavar="TASK", help="The last task id of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """Tasks in order of arrival."""
    from nexus import TaskStatus

    for word in status or ():
        if word.lower() not in set(TaskStatus):
            refuse(f"{word!r} is no status; the states are {', '.join(TaskStatus)}.", USAGE)
    tasks = open_nexus(context).get_all_tasks(
        status or None, task_type=task_type, tag=tag, agent_id=agent, episode_id=episode, limit=limit, after=after
    )

    def row(task: "Task") -> tuple[object, ...]:
        who = task.claimed_by or (f"({task.assigned_to})" if task.assigned_to else "")
        tried = f"{task.attempt_count}"
        return (
            task.task_id,
            status_text(task.status),
            task.priority,
            tried,
            who,
            flat(task.description) or task.task_type,
        )

    def show() -> None:
        if not tasks:
            chosen = any((status, task_type, tag, agent, episode, after))
            say("No task is like that." if chosen else "No tasks yet: nexus add, nexus import, nexus run quickstart.")
            return
        columns = ["task", "status", "prio", "tries", "agent", "what"]
        table(columns, map(row, tasks), right=("prio", "tries"), whole=("status",), ids=("task", "agent"))
        if len(tasks) == limit:
            say(f"There may be more: nexus list --after {tasks[-1].task_id}")

    emit(tasks, as_json, show)


def show(context: typer.Context, task_id: TaskId, as_json: Json = False) -> None:
    """One task: all that is known of it, and every attempt."""
    nexus = open_nexus(context)
    task = nexus.get_task_by_id(task_id)
    if task is None:
        raise TaskNotFound(task_id)
    attempts = nexus.attempts(task_id)
    if as_json:
        return print_json({**task.model_dump(mode="json"), "attempts": attempts})
    known = mask(nexus, task).value(task.model_dump(mode="json", exclude={"retry_policy"}))
    known["result"] = None if task.result is None else json.dumps(known["result"], ensure_ascii=False)
    facts({name: _words(value) for name, value in known.items() if value not in (None, "", [], {}, 0, False)})
    if attempts:
        print()  # noqa: T201
        _attempts(attempts)
        _runs(nexus, attempts)
    return None


def _words(value: Any) -> str:
    if value is True:
        return "yes"
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _attempts(attempts: "list[Attempt]") -> None:
    def row(one: "Attempt") -> tuple[object, ...]:
        seconds = f"{(one.finished_at - one.started_at).total_seconds():.1f}" if one.finished_at else ""
        late = "" if one.late_result is None else "; a result came too late and is kept (--json shows it)"
        return (
            one.number,
            one.agent_id,
            one.outcome,
            when(one.started_at),
            seconds,
            (one.error or one.note or "") + late,
        )

    columns = ["#", "agent", "outcome", "started (UTC)", "seconds", "said"]
    whole = ("outcome", "started (UTC)")
    table(columns, map(row, attempts), right=("#", "seconds"), whole=whole, ids=("agent",), folds=("said",))


def _runs(nexus: "TaskNexus", attempts: "list[Attempt]") -> None:
    """Where the runs of the attempts are; whole, since half an address is none."""
    if lines := run_lines(attempts, nexus.settings):
        print("", *lines, sep="\n")  # noqa: T201


def history(context: typer.Context, task_id: TaskId, as_json: Json = False) -> None:
    """Every move of a task: what, who, when and why.

    And where the runs of its attempts are seen.
    """
    nexus = open_nexus(context)
    events = nexus.history(task_id)
    rows = [
        (when(event.at), event.verb, event.from_status or "", event.to_status or "", event.actor, flat(event.reason))
        for event in events
    ]

    def show() -> None:
        columns = ["when (UTC)", "verb", "from", "to", "who", "why"]
        table(columns, rows, whole=columns[:4], ids=("who",), folds=("why",))
        _runs(nexus, nexus.attempts(task_id))

    emit(events, as_json, show)


def explain(
    context: typer.Context,
    task_id: TaskId,
    agent: Annotated[
        str | None, typer.Option("--agent", "-a", metavar="AGENT", help="Why this one agent cannot have it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Why a task is not running."""
    nexus = open_nexus(context)
    reasons = nexus.explain(task_id, agent)

    def show() -> None:
        for reason in reasons:
            print(f"{reason.code}: {flat(reason.message)}")  # noqa: T201
        if not reasons:
            print("claimable: nothing keeps it from being claimed now")  # noqa: T201
        for stall in nexus.stalls(task_id):
            if stall.closed_at is None:
                done = ", ".join(step.step for step in stall.steps) or "nothing yet"
                ahead = f"; next step {when(stall.next_step_at)}" if stall.next_step_at else ""
                since = f"{stall.kind} since {when(stall.since)}"
                print(f"stall: {since}, policy {stall.policy}, done: {done}{ahead}")  # noqa: T201

    emit(reasons, as_json, show)
