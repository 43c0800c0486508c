"""`nexus db`: the schema."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nexus.cli.output import Json, emit, refuse, say
from nexus.cli.progress import progress_bar

if TYPE_CHECKING:
    from nexus.engine import Database

app = typer.Typer(help="Look after the database.", no_args_is_help=True)


Url = Annotated[str | None, typer.Option("--database", metavar="URL", help="Default: the settings' own.")]


def _database(context: typer.Context, url: str | None) -> "Database":
    from nexus.engine import Database
    from nexus.settings import NexusSettings

    settings = NexusSettings.load()
    given = url or (context.find_root().obj or {}).get("database")
    return Database.of(settings, settings.location(given))


@app.command()
def upgrade(context: typer.Context, url: Url = None, as_json: Json = False) -> None:
    """Create the schema, or bring it up to date."""
    from nexus import schema

    database = _database(context, url)
    try:
        before = schema.current(database)
        with progress_bar(as_json) as progress:
            progress("upgrading", 0, None)
            schema.ensure(database)
        after = schema.current(database)
    finally:
        database.close()
    done = "is up to date" if before == after else "was created" if before is None else f"was upgraded from {before}"
    emit(
        {"database": database.name, "before": before, "after": after},
        as_json,
        lambda: say(f"{database.name} {done}: schema version {after}."),
    )


@app.command()
def compact(context: typer.Context, url: Url = None, as_json: Json = False) -> None:
    """Make an SQLite file as small as it can be.

    It is written anew, and others wait until it is. Once is enough: from then on `nexus prune` gives back what it
    frees. Files that were made by 0.1 need it.
    """
    from nexus import schema

    database = _database(context, url)
    try:
        if not database.is_sqlite:
            refuse(f"{database.name} is no SQLite file; PostgreSQL looks after its own (autovacuum).")
        if not Path(database.url.database or "").is_file() or schema.current(database) is None:
            refuse(f"{database.name} holds no nexus yet.")
        with progress_bar(as_json) as progress:
            progress("compacting", 0, None)
            before, after = database.compact()
    finally:
        database.close()
    emit(
        {"database": database.name, "before": before, "after": after},
        as_json,
        lambda: say(f"{database.name} has {after:,} bytes; it had {before:,}."),
    )
