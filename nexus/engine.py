"""One database: how it is opened, what a transaction is, and which faults are tried again.

SQLite runs in WAL mode; every write transaction is `BEGIN IMMEDIATE`, because one that reads first and writes
later fails with "database is locked" whatever the timeout. A statement that met a transient fault (a locked
file, a deadlock, a connection that a restarting server dropped) is run again from the start of its transaction.
"""

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, CursorResult, Engine, make_url
from sqlalchemy.pool import StaticPool

from nexus.clock import Clock, utc_now
from nexus.errors import DatabaseUnavailable, InvalidTask, NotANexusDatabase
from nexus.sql import now
from nexus.values import dump_json

T = TypeVar("T")

BUSY_TIMEOUT_MS: Final = 30_000
TRIES: Final = 6
"""With delays of 0.05 s, doubling: faults of up to about a second and a half are not seen by anybody."""

PAGES_AT_ONCE: Final = 1000
"""Of an SQLite file, given back in one transaction: 4 MB."""

_INCREMENTAL: Final = 2
"""What SQLite calls `auto_vacuum = INCREMENTAL`."""

_TRANSIENT_SQLSTATES: Final = ("40001", "40P01", "55P03", "57P0", "08", "53300")


class Again(Exception):
    """Somebody else wrote first what this transaction was about to write: run it again, it will see it."""


@dataclass(frozen=True, slots=True)
class Tx:
    """An open transaction, and the present as its statements shall see it."""

    connection: Connection
    now: datetime | None
    """None: the database's own clock (PostgreSQL without an injected clock)."""

    def run(self, statement: sa.Executable, **parameters: Any) -> CursorResult[Any]:
        """Execute a statement that reads `nexus.sql.now`."""
        return self.connection.execute(statement, {"now": self.now, **parameters})

    def plain(
        self,
        statement: sa.Executable,
        parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> CursorResult[Any]:
        """Execute a statement that does not ask for the time."""
        return self.connection.execute(statement, parameters)

    def present(self) -> datetime:
        """The present, aware, in UTC; asks the database where its clock decides."""
        if self.now is not None:
            return self.now
        moment = self.run(sa.select(now())).scalar_one()
        assert isinstance(moment, datetime)
        return moment


def parse_url(text: str) -> URL:
    """The URL with its driver; `DatabaseUnavailable` for anything but SQLite and PostgreSQL."""
    try:
        url = make_url(text)
        if "\x00" in text:
            raise ValueError
    except (exc.ArgumentError, ValueError):
        raise DatabaseUnavailable(
            "The database URL cannot be read; write sqlite:///path/to/file.db or "
            "postgresql+psycopg://user@host/database (NEXUS_DATABASE_URL)."
        ) from None
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise DatabaseUnavailable(
            f"{url.drivername} is no database that the nexus runs on; use sqlite:///… or postgresql+psycopg://…"
        )
    return url


def shown(url: URL) -> str:
    """The URL without its passwords, for messages: it may stand before the host, or in the query."""
    hidden = {key: "hidden" for key in url.query if "password" in key.lower()}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


class Database:
    """An engine for one URL, and the transactions on it. Safe to share among threads."""

    def __init__(self, url: str, *, clock: Clock | None = None, synchronous: str = "FULL") -> None:
        self.url = parse_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._clock = clock or (utc_now if self.is_sqlite else None)
        self._one_at_a_time: AbstractContextManager[Any] = nullcontext()
        options: dict[str, Any] = {"json_serializer": dump_json}
        if self.is_sqlite and self.url.database in (None, "", ":memory:"):
            # A database in memory lives and dies with its one connection, which threads must take in turn.
            options["poolclass"] = StaticPool
            self._one_at_a_time = threading.RLock()
        self.engine: Engine = sa.create_engine(self.url, **options)
        if self.is_sqlite:
            _prepare_sqlite(self.engine, synchronous)

    @property
    def is_injected(self) -> bool:
        """Somebody else says what time it is."""
        return self._clock is not None and self._clock is not utc_now

    @property
    def name(self) -> str:
        """The URL without its password, for messages."""
        return shown(self.url)

    def write(self, work: Callable[[Tx], T], *, now: datetime | None = None) -> T:
        """Run `work` in one transaction: all of it, or nothing. Transient faults run it again.

        Raises `DatabaseUnavailable` when the database cannot be reached or written.
        """
        return self._run(work, now, begin="BEGIN IMMEDIATE")

    def read(self, work: Callable[[Tx], T], *, now: datetime | None = None) -> T:
        """Run `work` on one consistent view; it must not write."""
        return self._run(work, now, begin="BEGIN")

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    def write_ahead(self) -> None:
        """WAL: readers and SQLite's one writer do not wait for each other. Kept in the file, so mostly a look."""

        def switch(tx: Tx) -> None:
            if tx.plain(sa.text("PRAGMA journal_mode")).scalar() not in ("wal", "memory"):
                # Only a file that holds nothing yet takes this on; `compact` brings it to others.
                tx.plain(sa.text("PRAGMA auto_vacuum = INCREMENTAL"))
                tx.plain(sa.text("PRAGMA journal_mode = WAL"))

        self._run(switch, None, begin=None)  # not possible inside a transaction

    def give_back(self) -> None:
        """Let an SQLite file become smaller by what it does not use, in small pieces.

        A tenth of what it uses stays free: tomorrow's tasks would only make it grow again.
        """

        def piece(tx: Tx) -> bool:
            pages, free, mode = (
                tx.plain(sa.text(f"PRAGMA {name}")).scalar_one()
                for name in ("page_count", "freelist_count", "auto_vacuum")
            )
            spare = free - (pages - free) // 10
            if mode != _INCREMENTAL or spare <= 0:
                return False
            # As a script: of a lone statement Python takes one step only, and that is one page.
            driver: Any = tx.connection.connection
            driver.executescript(f"PRAGMA incremental_vacuum({min(spare, PAGES_AT_ONCE)})")
            return bool(spare > PAGES_AT_ONCE)

        # Each a transaction of its own, which the script would end anyway.
        while self.is_sqlite and self._run(piece, None, begin=None):
            time.sleep(0.01)  # a claim that waits gets its turn

    def compact(self) -> tuple[int, int]:
        """Write an SQLite file anew, without what it does not use; its bytes before and after.

        Others wait meanwhile. From then on `give_back` works, also where the file is older than that.
        """

        def size(tx: Tx) -> int:
            pages, each = (tx.plain(sa.text(f"PRAGMA {name}")).scalar_one() for name in ("page_count", "page_size"))
            return int(pages * each)

        def rewrite(tx: Tx) -> tuple[int, int]:
            before = size(tx)
            tx.plain(sa.text("PRAGMA auto_vacuum = INCREMENTAL"))
            tx.plain(sa.text("VACUUM"))
            return before, size(tx)

        return self._run(rewrite, None, begin=None)  # not possible inside a transaction

    def _run(self, work: Callable[[Tx], T], moment: datetime | None, *, begin: str | None) -> T:
        for attempt in range(1, TRIES + 1):
            try:
                with self._one_at_a_time, self.engine.connect() as connection:
                    connection = connection.execution_options(nexus_begin=begin)
                    with connection.begin():
                        return work(Tx(connection, moment or (self._clock() if self._clock else None)))
            except Again:
                if attempt == TRIES:
                    raise
            except (exc.DataError, UnicodeEncodeError, OverflowError) as error:
                # What somebody asked about, or gave, is no text or number of a database's.
                text = str(getattr(error, "orig", error)).strip().split("\n")[0]
                raise InvalidTask(f"{self.name} cannot keep or compare a value that was given: {text}") from error
            except exc.DBAPIError as error:
                if attempt == TRIES or not is_transient(error):
                    raise self._explained(error) from error
            time.sleep(0.05 * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        raise AssertionError("unreachable: the last try returns or raises")

    def _explained(self, error: exc.DBAPIError) -> Exception:
        """The typed error for a fault of the database itself; others (bugs) stay as they are."""
        text = str(error.orig).strip().replace("\n", " ")
        if isinstance(error.orig, sqlite3.DatabaseError) and "not a database" in text:
            return NotANexusDatabase(
                f"{self.name} is not an SQLite database; nothing was written to it. Choose another file."
            )
        connecting = error.statement is None
        if isinstance(error, exc.OperationalError | exc.InterfaceError) or error.connection_invalidated or connecting:
            return DatabaseUnavailable(f"{self.name}: {text}. {_advice(text)}".rstrip())
        return error


def is_transient(error: exc.DBAPIError) -> bool:
    """Whether the same transaction may well succeed in a moment."""
    if isinstance(error.orig, sqlite3.OperationalError):
        return "locked" in str(error.orig) or "busy" in str(error.orig)
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return error.connection_invalidated
    return error.connection_invalidated or str(state).startswith(_TRANSIENT_SQLSTATES)


def _advice(text: str) -> str:
    hints = {
        "unable to open": "Does its folder exist, and may you write there?",
        "readonly": "The file or its folder is read-only: give write permission or choose another database.",
        "disk is full": "Free some space; what was accepted before is safe.",
        "locked": "Another program holds the file; close it and try again.",
        "onnection refused": "Is the server running, and are host and port right?",
        "password authentication": "Check user and password in the URL.",
        "does not exist": "Create it, or correct the URL.",
    }
    return next((hint for part, hint in hints.items() if part in text), "")


def _prepare_sqlite(engine: Engine, synchronous: str) -> None:
    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA synchronous = {synchronous}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if begin := connection.get_execution_options().get("nexus_begin", "BEGIN"):
            connection.exec_driver_sql(begin)
