"""One database: how it is opened, what a transaction is, and which faults are tried again.

SQLite runs in WAL mode; every write transaction is `BEGIN IMMEDIATE`, because one that reads first and writes
later fails with "database is locked" whatever the timeout. A transaction that met a fault which passes (a locked
file, a deadlock, a server that restarts or fails over) is run again from its start; `nexus.faults` says which and how
long, `nexus.commits` how it is done once although the answer to its COMMIT was lost.
"""

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, CursorResult, Engine, make_url
from sqlalchemy.pool import StaticPool

from nexus import commits
from nexus.clock import Clock, utc_now
from nexus.commits import Sent, Trace
from nexus.errors import DatabaseUnavailable, InvalidTask
from nexus.faults import DOUBT, Fault, Patience, explained, is_cut_off, kind
from nexus.settings import NexusSettings
from nexus.sql import now
from nexus.values import dump_json

T = TypeVar("T")

BUSY_TIMEOUT_MS: Final = 30_000
SHORTEST_NAP: Final = 0.0005
LONGEST_NAP: Final = 0.01
WRITING: Final = "BEGIN IMMEDIATE"
CONNECT_SECONDS: Final = 10
RETRY_SECONDS: Final = 10.0

PAGES_AT_ONCE: Final = 1000
"""Of an SQLite file, given back in one transaction: 4 MB."""

_INCREMENTAL: Final = 2
"""What SQLite calls `auto_vacuum = INCREMENTAL`."""


class Again(Exception):
    """Somebody else wrote first what this transaction was about to write: run it again, it will see it."""


@dataclass(frozen=True, slots=True)
class Tx:
    """An open transaction, and the present as its statements shall see it."""

    connection: Connection
    now: datetime | None
    """None: the database's own clock (PostgreSQL without an injected clock)."""
    traces: list[Trace] = field(default_factory=list)
    """What nobody but this transaction can have left."""

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

    def leaves(self, trace: Trace) -> None:
        """Note how to find what was written here: it tells later whether a commit happened whose answer was lost."""
        self.traces.append(trace)

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


def _check_options(url: URL) -> None:
    """`DatabaseUnavailable` for what stands after the `?` and cannot be: it would come up at the first statement."""
    try:
        url.get_dialect()().create_connect_args(url)
    except (TypeError, ValueError) as error:
        raise DatabaseUnavailable(f"The options of the database URL cannot be read: {str(error)[:200]}") from None


def shown(url: URL) -> str:
    """The URL without its passwords, for messages: it may stand before the host, or in the query."""
    hidden = {key: "hidden" for key in url.query if "password" in key.lower()}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


class Database:
    """An engine for one URL, and the transactions on it. Safe to share among threads."""

    def __init__(
        self,
        url: str,
        *,
        clock: Clock | None = None,
        synchronous: str = "FULL",
        connect_seconds: int = CONNECT_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self.url = parse_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._clock = clock or (utc_now if self.is_sqlite else None)
        self._retry_seconds = retry_seconds
        self._reached = False
        self._one_at_a_time: AbstractContextManager[Any] = nullcontext()
        options: dict[str, Any] = {"json_serializer": dump_json}
        _check_options(self.url)
        self.is_in_memory = self.is_sqlite and self.url.database in (None, "", ":memory:")
        if self.is_in_memory:
            # A database in memory lives and dies with its one connection, which threads must take in turn.
            options["poolclass"] = StaticPool
            self._one_at_a_time = threading.RLock()
        # Threads of one process wait for their turn here, not for each other's locks on the file.
        self._writers = threading.RLock() if self.is_sqlite and not self.is_in_memory else self._one_at_a_time
        if not self.is_sqlite:
            said = _waiting(connect_seconds)
            options["connect_args"] = {name: value for name, value in said.items() if name not in self.url.query}
        self.engine: Engine = sa.create_engine(self.url, **options)
        if self.is_sqlite:
            _prepare_sqlite(self.engine, synchronous)
        else:
            commits.name_connections(self.engine)

    @classmethod
    def of(cls, settings: NexusSettings, url: str, *, clock: Clock | None = None) -> Self:
        """The database at `url`, opened as the settings say."""
        return cls(
            url,
            clock=clock,
            synchronous=settings.sqlite_synchronous,
            connect_seconds=settings.database_connect_seconds,
            retry_seconds=settings.database_retry_seconds,
        )

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
        return self._run(work, now, begin=WRITING)

    def write_at_once(self, work: Callable[[Tx], T], again: Callable[[Tx], T]) -> T:
        """Run `work`, which is one statement on PostgreSQL: a transaction in itself, in one round trip.

        Where its answer was lost nobody knows what it moved: then `again` looks, in a transaction of its own.
        """
        return self._run(work, None, begin=WRITING, again=None if self.is_sqlite else again)

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

    def seconds(self) -> float:
        """A clock that runs with the injected one, or else evenly: for what is remembered for a while."""
        return self._clock().timestamp() if self._clock is not None and self.is_injected else time.monotonic()

    def _run(
        self,
        work: Callable[[Tx], T],
        moment: datetime | None,
        *,
        begin: str | None,
        again: Callable[[Tx], T] | None = None,
    ) -> T:
        patience = Patience(self._retry_seconds, self._reached)
        lost: Sent[T] | None = None
        while True:
            sent: Sent[T] | None = None
            try:
                if lost is not None and again is not None:
                    commits.end(self.engine, lost.name)
                    return self.write(again)
                if lost is not None and commits.happened(self.engine, lost):
                    return lost.results[0]
                lost = None
                turn = self._writers if begin == WRITING else self._one_at_a_time
                with turn, self.engine.connect() as connection:
                    patience.reached = self._reached = True
                    if again is not None:
                        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
                    connection = connection.execution_options(nexus_begin=begin)
                    sent = Sent(commits.name_of(connection)) if begin == WRITING and not self.is_sqlite else None
                    with connection.begin():  # only then the time: it may have waited for others
                        tx = Tx(connection, moment or (self._clock() if self._clock else None))
                        result = work(tx)
                        if sent is not None:
                            sent.results, sent.traces = [result], tx.traces
                return result
            except Again:
                if not patience.allows(Fault.CONFLICT):
                    raise
            except (exc.DataError, UnicodeEncodeError, OverflowError) as error:
                # What somebody asked about, or gave, is no text or number of a database's.
                text = str(getattr(error, "orig", error)).strip().split("\n")[0]
                raise InvalidTask(f"{self.name} cannot keep or compare a value that was given: {text}") from error
            except commits.Undecided as error:
                raise DatabaseUnavailable(
                    f"{self.name}: a connection broke, and its session goes on.{DOUBT}"
                ) from error
            except exc.DBAPIError as error:
                lost = lost or (sent if is_cut_off(error) else None)
                if not patience.allows(kind(error), str(error.orig)):
                    unsure = lost is not None and bool(lost.results and lost.traces)
                    raise explained(self.name, error, unsure=unsure) from error


def _waiting(connect_seconds: int) -> dict[str, Any]:
    """How long to wait for a server that says nothing: at first, and in the middle of a conversation.

    A server that is gone with its whole machine closes no connection. Without these the operating system would wait
    a quarter of an hour for what was sent, and two hours for an answer.
    """
    return {
        "connect_timeout": connect_seconds,
        "keepalives_idle": connect_seconds,
        "keepalives_interval": max(1, connect_seconds // 3),
        "keepalives_count": 3,
        "tcp_user_timeout": 2_000 * connect_seconds,
    }


def _prepare_sqlite(engine: Engine, synchronous: str) -> None:
    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA synchronous = {synchronous}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        begin = connection.get_execution_options().get("nexus_begin", "BEGIN")
        if begin == WRITING:
            _begin_writing(connection)
        elif begin:
            connection.exec_driver_sql(begin)


def _begin_writing(connection: Connection) -> None:
    """Wait for the file in short naps: SQLite's own grow to 100 ms, in which a hundred others could have written."""
    driver: Any = connection.connection.driver_connection
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
    connection.exec_driver_sql(WRITING)  # the last try tells what is wrong, in SQLAlchemy's words
