"""The pull protocol for agents that work outside: claim, start, heartbeat, complete, fail, release.

`nexus claim --json` gives the task and a claim_no; every later verb shows that number, and a number that is
no longer the current one is refused.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from nexus.cli.output import (
    MOST,
    NOTHING,
    STOP,
    USAGE,
    Json,
    TaskId,
    at_most,
    emit,
    flat,
    mask,
    open_nexus,
    parse_json,
    refuse,
    say,
    when,
)
from nexus.errors import ClaimLost, TaskNotFound
from nexus.states import HELD

if TYPE_CHECKING:
    from nexus import Claim, TaskNexus

MAX_CLAIM_NO = 2**31 - 1
MAX_RETRY_AFTER = 30 * 86_400  # as `nexus.Failure` has it

Agent = Annotated[str, typer.Option("--agent", "-a", metavar="AGENT", help="Who claims.", envvar="NEXUS_AGENT")]
Holder = Annotated[
    str | None, typer.Option("--agent", "-a", metavar="AGENT", help="Who holds the claim.", envvar="NEXUS_AGENT")
]
ClaimNo = Annotated[
    int | None,
    typer.Option(
        "--claim-no",
        "-c",
        min=1,
        callback=at_most(MAX_CLAIM_NO),
        metavar="N",
        help="The number that `nexus claim` gave.",
    ),
]
Lease = Annotated[
    float | None, typer.Option("--lease", metavar="SECONDS", help="That the claim holds without a heartbeat.")
]


def attach(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    for verb in (claim, start, heartbeat, complete, fail, release):
        app.command()(verb)


def held(nexus: "TaskNexus", task_id: str, claim_no: int | None, agent_id: str | None) -> "Claim":
    """The claim that the caller shows: by number, or by name where the agent holds the task."""
    if claim_no is not None:
        return nexus.claim_numbered(task_id, claim_no, agent_id)
    if agent_id is None:
        refuse("Give --claim-no N (from `nexus claim`) or --agent NAME: whose claim is it?", USAGE)
    task = nexus.get_task_by_id(task_id)
    if task is None:
        raise TaskNotFound(task_id)
    if task.claimed_by == agent_id:
        # Also where the claim has ended: whether that is a refusal, or was done before, each verb says itself.
        return nexus.claim_numbered(task_id, task.claim_no, agent_id)
    if tried := [one.claim_no for one in nexus.attempts(task_id) if one.agent_id == agent_id]:
        return nexus.claim_numbered(task_id, tried[-1], agent_id)  # it is lost, and what it still brings is kept
    held_by = f"{task.claimed_by} holds it, and {agent_id} has no claim" if task.status in HELD else None
    raise ClaimLost(task_id, None, now_held=held_by or f"nobody holds it, the task is {task.status}")


def claim(
    context: typer.Context,
    agent: Agent,
    task_id: Annotated[
        str | None, typer.Argument(metavar="TASK", help="This one task only.", show_default=False)
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, callback=at_most(MOST), metavar="N", help="Take up to so many.")
    ] = 1,
    task_type: Annotated[
        list[str] | None, typer.Option("--type", "-t", metavar="TYPE", help="Only this task type; may be repeated.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="Only with this tag; may be repeated.")
    ] = None,
    episode: Annotated[str | None, typer.Option(metavar="EPISODE", help="Only of this episode.")] = None,
    lease: Lease = None,
    as_json: Json = False,
) -> None:
    """Take the most urgent tasks that this agent may have.

    Exit code 3: there is nothing to claim. 5: the database is away; try again.
    """
    nexus = open_nexus(context)
    if task_id is not None:
        claims = [nexus.claim_task(task_id, agent, lease_seconds=lease)]
    else:
        claims = nexus.claim(
            agent, limit, task_types=task_type or None, tags=tag or None, episode_id=episode, lease_seconds=lease
        )

    def show() -> None:
        for one in claims:
            print(f"{flat(one.task_id)}  claim {one.claim_no}, held until {when(one.lease_expires_at)} UTC")  # noqa: T201
            print(f"  {flat(one.task.task_type)}: {flat(one.task.description)}")  # noqa: T201

    emit(claims, as_json, show)
    if not claims:
        say("Nothing to claim now.")
        raise typer.Exit(NOTHING)


def start(
    context: typer.Context,
    task_id: TaskId,
    agent: Holder = None,
    claim_no: ClaimNo = None,
    run_ref: Annotated[str | None, typer.Option(metavar="JSON", help="Which run this is; kept on the attempt.")] = None,
    as_json: Json = False,
) -> None:
    """Begin to work on a claimed task: opens an attempt.

    Exit code 4: stop, the claim is lost. 5: the database is away; try again. If it says then that the task is
    in_progress, it was begun the first time.
    """
    nexus = open_nexus(context)
    attempt = nexus.start(held(nexus, task_id, claim_no, agent), parse_json(run_ref, "--run-ref"))
    emit(attempt, as_json, lambda: say(f"{task_id}: attempt {attempt.number} has begun."))


def heartbeat(
    context: typer.Context,
    task_id: TaskId,
    agent: Holder = None,
    claim_no: ClaimNo = None,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="How far the work is.")] = None,
    lease: Lease = None,
    as_json: Json = False,
) -> None:
    """Renew the lease.

    Exit code 4: stop, the claim is lost or the task was cancelled. 5: the database is away, so the lease was not
    renewed; go on, and try again soon.
    """
    nexus = open_nexus(context)
    claim = held(nexus, task_id, claim_no, agent)
    told = None if note is None else mask(nexus, claim.task).text(note)
    beat = nexus.heartbeat(claim, told, lease_seconds=lease)

    def show() -> None:
        if not beat.cancel_requested:
            say(f"{task_id}: held until {when(beat.lease_expires_at)} UTC.")

    emit(beat, as_json, show)
    if beat.cancel_requested:
        refuse(f"{task_id} was cancelled: stop working on it.", STOP)


def complete(
    context: typer.Context,
    task_id: TaskId,
    agent: Holder = None,
    claim_no: ClaimNo = None,
    result: Annotated[
        str | None, typer.Option("--result", "-r", metavar="JSON", help="Itself, @file, or - for stdin.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Done: keep the result.

    A result that comes after the claim was lost is kept on its attempt; exit code 4. 5: the database is away; try
    again with the same result, which is answered as the first time if it was written.
    """
    nexus = open_nexus(context)
    value = parse_json(result, "--result")
    claim = held(nexus, task_id, claim_no, agent)
    task = nexus.complete(claim, mask(nexus, claim.task).value(value))
    emit(task, as_json, lambda: say(f"{task_id}: {task.status}."))


def fail(
    context: typer.Context,
    task_id: TaskId,
    error: Annotated[str, typer.Option("--error", "-e", metavar="TEXT", help="What went wrong.")],
    agent: Holder = None,
    claim_no: ClaimNo = None,
    give_up: Annotated[bool, typer.Option("--give-up", help="No further attempt will help.")] = False,
    retry_after: Annotated[
        float | None,
        typer.Option(min=0, callback=at_most(MAX_RETRY_AFTER), metavar="SECONDS", help="Until the next attempt."),
    ] = None,
    as_json: Json = False,
) -> None:
    """The attempt failed.

    The retry policy offers the task again later, or makes it a dead letter. Exit code 4: the claim is lost. 5: the
    database is away; try again. If it says then that the task is pending, or failed, it was written the first time.
    """
    from nexus import Failure
    from nexus.schemas import clean

    nexus = open_nexus(context)
    claim = held(nexus, task_id, claim_no, agent)
    told = clean(mask(nexus, claim.task).text(error))
    failure = Failure(message=told, error_type="", retryable=not give_up, retry_after_seconds=retry_after)
    task = nexus.fail(claim, failure)
    again = f"again from {when(task.available_at)} UTC" if task.status == "pending" else "a dead letter"
    emit(task, as_json, lambda: say(f"{task_id}: {task.status}, {again}."))


def release(
    context: typer.Context,
    task_id: TaskId,
    agent: Holder = None,
    claim_no: ClaimNo = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why it is handed back.")] = None,
    as_json: Json = False,
) -> None:
    """Hand a task back; it is offered again at once.

    Exit code 4: the claim is lost. 5: the database is away; try again.
    """
    nexus = open_nexus(context)
    claim = held(nexus, task_id, claim_no, agent)
    told = None if reason is None else mask(nexus, claim.task).text(reason)
    task = nexus.release(claim, told)
    emit(task, as_json, lambda: say(f"{task_id}: handed back."))
