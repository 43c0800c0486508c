"""What only a database that is an SQLite file needs: how it is opened, written, and made smaller again."""

import random
import sqlite3
import time
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

WRITING: Final = "BEGIN IMMEDIATE"
"""Not BEGIN: who reads first and writes later fails with "database is locked", whatever the timeout."""

BUSY_TIMEOUT_MS: Final = 30_000
SHORTEST_NAP: Final = 0.0005
LONGEST_NAP: Final = 0.01

PAGES_AT_ONCE: Final = 1000
"""Given back in one transaction: 4 MB."""

_INCREMENTAL: Final = 2
"""What SQLite calls `auto_vacuum = INCREMENTAL`."""


def prepare(engine: Engine, synchronous: str) -> None:
    """Set up each connection."""

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA synchronous = {synchronous}")


def begin_writing(driver: sqlite3.Connection) -> None:
    """Wait for the file in short naps: SQLite's own grow to 100 ms, in which a hundred others could have written."""
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        until = time.monotonic() + BUSY_TIMEOUT_MS / 1000
        nap = SHORTEST_NAP
        while time.monotonic() < until:
            try:
                driver.execute(WRITING)
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    break
                time.sleep(nap * random.uniform(0.5, 1.5))
                nap = min(2 * nap, LONGEST_NAP)
            else:
                return
    finally:
        driver.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    driver.execute(WRITING)  # the last try tells what is wrong


def _pragma(connection: Connection, name: str) -> Any:
    return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


def write_ahead(connection: Connection) -> None:
    """WAL: readers and SQLite's one writer do not wait for each other. Kept in the file, so mostly a look."""
    if _pragma(connection, "journal_mode") not in ("wal", "memory"):
        # Only a file that holds nothing yet takes this on; `rewrite` brings it to others.
        connection.exec_driver_sql("PRAGMA auto_vacuum = INCREMENTAL")
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")


def give_back(connection: Connection) -> bool:
    """Let the file become smaller by a piece of what it does not use; whether there is more.

    A tenth of what it uses stays free: tomorrow's tasks would only make it grow again.
    """
    pages, free, mode = (_pragma(connection, name) for name in ("page_count", "freelist_count", "auto_vacuum"))
    spare = free - (pages - free) // 10
    if mode != _INCREMENTAL or spare <= 0:
        return False
    # As a script: of a lone statement Python takes one step only, and that is one page.
    driver: Any = connection.connection.driver_connection
    driver.executescript(f"PRAGMA incremental_vacuum({min(spare, PAGES_AT_ONCE)})")
    return bool(spare > PAGES_AT_ONCE)


def rewrite(connection: Connection) -> tuple[int, int]:
    """Write the file anew, without what it does not use; its bytes before and after. Others wait meanwhile."""
    before = _size(connection)
    connection.exec_driver_sql("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute(sa.text("VACUUM"))
    return before, _size(connection)


def _size(connection: Connection) -> int:
    return int(_pragma(connection, "page_count") * _pragma(connection, "page_size"))
