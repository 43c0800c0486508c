"""What is wrong with a board, from outside: whether it can be opened at all, and then what it says of itself.

Looks only: nothing is created, nothing is upgraded.
"""

from pathlib import Path

from nexus import schema
from nexus.engine import Database
from nexus.errors import NexusError
from nexus.reports import Finding
from nexus.settings import NexusSettings
from nexus.task_nexus import TaskNexus


def examine(settings: NexusSettings, url: str | None = None) -> list[Finding]:
    """Every finding about the board that `url`, or the settings, name; none where all is well."""
    location = url or settings.url
    try:
        database = Database.of(settings, location)
        try:
            if missing := _missing(database):
                return [missing]
            version = schema.current(database)
        finally:
            database.close()
        known = schema.versions()[-1]
        if version != known and (version is None or version in schema.versions()):
            has = f"has schema version {version}" if version else "has no tables of the nexus yet"
            message = f"{database.name} {has}, this program has {known}; `nexus db upgrade` brings it there"
            return [Finding(code="schema", message=message)]
        with TaskNexus(location, settings=settings) as nexus:
            return nexus.doctor()
    except NexusError as error:
        return [Finding(code="database", message=" ".join(str(error).split()))]


def _missing(database: Database) -> Finding | None:
    file = database.url.database
    if not database.is_sqlite or file in (None, "", ":memory:") or Path(str(file)).exists():
        return None
    message = f"{database.name} does not exist yet; any other command (`nexus list`, say) makes it"
    return Finding(code="database", message=message)
