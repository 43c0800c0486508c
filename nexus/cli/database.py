"""`nexus db`: the schema."""

from typing import Annotated

import typer

from nexus.cli.output import Json, emit, say

app = typer.Typer(help="Look after the database.", no_args_is_help=True)


@app.command()
def upgrade(
    context: typer.Context,
    url: Annotated[str | None, typer.Option("--database", metavar="URL", help="Default: the settings' own.")] = None,
    as_json: Json = False,
) -> None:
    """Create the schema, or bring it up to date."""
    from nexus import schema
    from nexus.engine import Database
    from nexus.settings import NexusSettings

    settings = NexusSettings.load()
    given = url or (context.find_root().obj or {}).get("database")
    database = Database.of(settings, settings.location(given))
    try:
        before = schema.current(database)
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
