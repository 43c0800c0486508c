"""`nexus stats`: the board in numbers."""

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from nexus.cli.durations import brief, parse_seconds
from nexus.cli.output import USAGE, Json, emit, open_nexus, refuse, say, status_text, table, when
from nexus.errors import InvalidTask

if TYPE_CHECKING:
    from nexus import Figures, Work


def attach(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command()(stats)


def stats(
    context: typer.Context,
    since: Annotated[
        str, typer.Option(metavar="AGE", help="Attempts that ended since: 90m, 24h, 7d; `all` is the whole record.")
    ] = "24h",
    episode: Annotated[str | None, typer.Option(metavar="EPISODE", help="Only of this episode.")] = None,
    as_json: Json = False,
) -> None:
    """Count tasks by status, and what came of them.

    By task type and by agent: the tasks done and how attempts ended, how long tasks waited to be claimed, and how
    long an attempt took (completed, failed or timed out).
    """
    seconds = None if since == "all" else parse_seconds(since, "--since")
    nexus = open_nexus(context)
    try:
        start = None if seconds is None else nexus.now() - timedelta(seconds=seconds)
        figures = nexus.figures(since=start, episode_id=episode)
    except InvalidTask:
        refuse(f"--since: {since!r} is before 1970.", USAGE)
    document = figures.model_dump(mode="json")
    # The statuses stand on top, as they did when there was nothing else.
    emit({**document.pop("status"), **document}, as_json, lambda: _show(figures))


def _show(figures: "Figures") -> None:
    rows = [(status_text(name), number) for name, number in figures.status.items() if number]
    table(["status", "tasks"], [*rows, ("total", sum(figures.status.values()))], right=("tasks",))
    if not (figures.by_type or figures.by_agent):
        say(f"No attempt ended {_window(figures)}.")
        return
    everything = {"all": figures.total} if len(figures.by_type) > 1 else {}
    for key, works in (("type", figures.by_type | everything), ("agent", figures.by_agent)):
        print()  # noqa: T201
        _ends(key, works)
        print()  # noqa: T201
        _durations(key, works)
    say(f"Attempts that ended {_window(figures)}; done counts tasks.")


def _window(figures: "Figures") -> str:
    return f"since {when(figures.since)} UTC" if figures.since else "at any time"


def _ends(key: str, works: "Mapping[str, Work]") -> None:
    """How many attempts ended how; ways that none ended are left out."""
    ways = ("completed", "failed", "timed_out", "lost", "released", "cancelled", "running")
    seen = ["done", *(way for way in ways if any(getattr(work, way) for work in works.values()))]
    rows = [(name, *(getattr(work, way) or "-" for way in seen)) for name, work in works.items()]
    table([key, *seen], rows, right=seen, ids=(key,))


def _durations(key: str, works: "Mapping[str, Work]") -> None:
    parts = ("p50", "p95", "p99", "max")
    columns = [f"wait {parts[0]}", *parts[1:], f"run {parts[0]}", *parts[1:]]
    rows = [
        (name, *(brief(getattr(spread, part)) or "-" for spread in (work.wait, work.run) for part in parts))
        for name, work in works.items()
    ]
    table([key, *columns], rows, right=columns, ids=(key,))
