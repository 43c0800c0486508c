"""Whether a database has our schema, and how it gets it.

The steps lie in `nexus/migrations/versions`, one a release, and are run by Alembic, which is loaded only when
there is something to do. A database that is current costs one query.
"""

from functools import cache
from pathlib import Path

import sqlalchemy as sa

from nexus.engine import Database, Tx
from nexus.errors import NotANexusDatabase, SchemaOutdated, SchemaTooNew
from nexus.tables import SCHEMA_VERSION_TABLE
from nexus.urls import shown

MIGRATIONS = Path(__file__).parent / "migrations"
_UPGRADE_LOCK = 5_236_839_017
"""Any number that nobody else uses: two processes that open the same PostgreSQL at once upgrade it once."""


@cache
def versions() -> tuple[str, ...]:
    """The schema versions that this program knows, oldest first; file names begin with them."""
    return tuple(sorted(path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")))


def current(database: Database) -> str | None:
    """The version that the database is at; None for a database without tables of ours.

    Raises `NotANexusDatabase` where something else lives.
    """
    return database.read(_current)


def _current(tx: Tx) -> str | None:
    names = set(sa.inspect(tx.connection).get_table_names())
    if SCHEMA_VERSION_TABLE in names:
        version = tx.plain(sa.text(f"SELECT version_num FROM {SCHEMA_VERSION_TABLE}")).scalar()  # noqa: S608 - a constant
        return str(version) if version is not None else None
    database = shown(tx.connection.engine.url)
    if tx.connection.dialect.name == "sqlite" and names:
        raise NotANexusDatabase(
            f"{database} holds tables that are not the nexus's ({', '.join(sorted(names)[:3])} …); "
            "nothing was written to it. Choose another file."
        )
    if ours := sorted(name for name in names if name.startswith("nexus_")):
        raise NotANexusDatabase(
            f"{database} holds {', '.join(ours)} but no {SCHEMA_VERSION_TABLE}; "
            "nothing was written to it. Use another database or schema."
        )
    return None


def ensure(database: Database, *, may_upgrade: bool = True) -> None:
    """Bring the schema up to date.

    Raises `SchemaTooNew` for a database from a newer version, `SchemaOutdated` for an older or empty one that
    may not be upgraded here, `NotANexusDatabase` for a foreign one.
    """
    version = current(database)
    if version is not None and version not in versions():
        raise SchemaTooNew(
            f"{database.name} has schema version {version}, this program knows up to {versions()[-1]}; "
            "it was not touched. Upgrade nexus-flows."
        )
    if version != versions()[-1] and not may_upgrade:
        has = f"schema version {version}" if version else "no tables of the nexus yet"
        raise SchemaOutdated(
            f"{database.name} has {has}, this program needs schema version {versions()[-1]}; run `nexus db upgrade`."
        )
    if database.is_sqlite:
        database.write_ahead()  # only now: what is not ours is not touched
    if version != versions()[-1]:
        database.write(_upgrade)


def _upgrade(tx: Tx) -> None:
    from alembic import command
    from alembic.config import Config

    if tx.connection.dialect.name == "postgresql":
        tx.plain(sa.select(sa.func.pg_advisory_xact_lock(_UPGRADE_LOCK)))
    if _current(tx) == versions()[-1]:
        return  # another process was faster
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = tx.connection
    command.upgrade(config, "head")
