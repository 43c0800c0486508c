"""`nexus import` and `nexus export`: boards as files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nexus.cli.output import Actor, Json, data_stream, emit, flat, open_nexus, refuse, say
from nexus.cli.progress import progress_bar

if TYPE_CHECKING:
    from nexus.boards import ImportReport

STDOUT = 1
SHOWN = 20
"""Rejects and warnings that are printed; --json has them all."""


def attach(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command("import")(import_boards)
    app.command("export")(export_board)


@contextmanager
def all_or_nothing(what: str) -> Iterator[None]:
    """Says what Ctrl-C leaves behind."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"Interrupted. {what}")
        raise


def import_boards(
    context: typer.Context,
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Board files (JSON, JSONL, YAML), or folders of them.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="All or nothing: one reject, and nothing is written.")
    ] = False,
    episode: Annotated[
        str | None, typer.Option(metavar="EPISODE", help="Put tasks that name no episode into this one.")
    ] = None,
    by: Actor = None,
    as_json: Json = False,
) -> None:
    """Load boards without running them. Exit code 1 where nothing could be read, or --strict found a reject."""
    from nexus.boards.reading import EXTENSIONS

    nexus = open_nexus(context)
    with all_or_nothing("Nothing was imported."), progress_bar(as_json) as progress:
        board = nexus.read_board(paths, progress=progress)
    if not board.files:
        refuse(f"{', '.join(map(str, paths))}: holds no board file ({', '.join(sorted(EXTENSIONS))})")
    if episode:
        board = board.in_episode(episode)
    written = "An import is all or nothing; to import again is safe."
    with all_or_nothing(written), progress_bar(as_json) as progress:
        report = nexus.import_board(board, dry_run=dry_run, strict=strict, actor=by, progress=progress)
    emit(report, as_json, lambda: show(report))
    nothing = report.rejected and not (report.accepted or report.updated or report.unchanged)
    if nothing or (strict and report.rejected):
        refuse("Nothing was written (--strict)." if strict else "Nothing could be imported.")


def show(report: "ImportReport") -> None:
    """The account, for people."""
    rejects = [
        f"rejected: {flat(str(one))}" + (f"  {flat(one.record)[:100]}" if one.record else "") for one in report.rejects
    ]
    notes = [f"note: {flat(one)}" for one in report.warnings]
    for found in (rejects, notes):
        for line in found[:SHOWN]:
            say(line)
        if len(found) > SHOWN:
            say(f"… {len(found) - SHOWN} more of these (--json shows all)")
    would = " (dry run: nothing was written)" if report.dry_run else ""
    counts = ("accepted", "updated", "unchanged", "rejected")
    print(", ".join(f"{getattr(report, name)} {name}" for name in counts) + would)  # noqa: T201


def export_board(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="board.json, .jsonl or .yaml; - is JSON on stdout.")],
    episode: Annotated[str | None, typer.Option(metavar="EPISODE", help="Only of this episode.")] = None,
    as_json: Json = False,
) -> None:
    """Write the board to a file.

    Imported, it is the same tasks and attempts.
    """
    from nexus.boards import write_board, write_tasks
    from nexus.boards.writing import place_of
    from nexus.progress import counted

    nexus = open_nexus(context)
    try:
        place = STDOUT if str(path) == "-" else place_of(path)
    except OSError as error:
        refuse(f"{path}: cannot be written: {error.strerror}.")
    left = " A file that was there is as it was." if isinstance(place, Path) else ""
    with all_or_nothing(f"The export is not complete.{left}"), progress_bar(as_json) as progress:
        progress("reading", 0, None)
        tasks = nexus.get_all_tasks(episode_id=episode)
        attempts = nexus.attempts_by_task(task.task_id for task in tasks)
        written = counted(tasks, progress, "writing", len(tasks))
        if place == STDOUT:
            write_tasks(data_stream(), written, attempts)
            return
        try:
            write_board(path, written, attempts)
        except OSError as error:
            refuse(f"{path}: cannot be written: {error.strerror}.")
    emit({"path": str(path), "tasks": len(tasks)}, as_json, lambda: say(f"{len(tasks)} tasks written to {path}."))
