"""One database: how it is opened, what a transaction is, and which faults are tried again.

A transaction that met a fault which passes (a locked file, a deadlock, a server that restarts or fails over) is run
again from its start; `nexus.faults` says which and how long, `nexus.commits` how it is done once although the answer
to its COMMIT was lost. What only SQLite or only PostgreSQL needs stands in `nexus.files` and `nexus.servers`.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection, CursorResult, Engine
from sqlalchemy.pool import PoolProxiedConnection, StaticPool

from nexus import commits, files, servers
from nexus.clock import Clock, utc_now
from nexus.commits import Sent, Trace
from nexus.errors import DatabaseUnavailable, InvalidTask
from nexus.faults import DOUBT, Fault, Patience, crowded, explained, is_cut_off, kind
from nexus.files import WRITING
from nexus.settings import NexusSettings
from nexus.sql import now
from nexus.urls import parse_url, shown
from nexus.values import dump_json

T = TypeVar("T")

READING: Final = "BEGIN"
_BEGIN: Final = "nexus_begin"
CONNECT_SECONDS: Final = 10
RETRY_SECONDS: Final = 10.0


class Again(Exception):
    """Somebody else wrote first what this transaction was about to write: run it again, it will see it."""


@dataclass(slots=True)
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
        self.is_in_memory = self.is_sqlite and self.url.database in (None, "", ":memory:")
        if self.is_in_memory:
            # A database in memory lives and dies with its one connection, which threads must take in turn.
            options["poolclass"] = StaticPool
            self._one_at_a_time = threading.RLock()
        # Threads of one process wait for their turn here, not for each other's locks on the file.
        self._writers = threading.RLock() if self.is_sqlite and not self.is_in_memory else self._one_at_a_time
        if not self.is_sqlite:
            said = servers.options(connect_seconds)
            options["connect_args"] = {name: value for name, value in said.items() if name not in self.url.query}
        self.engine: Engine = sa.create_engine(self.url, **options)
        if self.is_sqlite:
            files.prepare(self.engine, synchronous)
        else:
            servers.name_connections(self.engine)
        # Not by an event of the engine's: for one it asks everybody at each connection and each transaction.
        self.engine.dialect.do_begin = self._begin  # type: ignore[method-assign]

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

    def write_at_once(
        self, work: Callable[[Tx], T], again: Callable[[Tx], T], *, retry_seconds: float | None = None
    ) -> T:
        """Run `work`, which is one statement on PostgreSQL: a transaction in itself, in one round trip.

        Where its answer was lost nobody knows what it moved: then `again` looks, in a transaction of its own.
        `retry_seconds`: how long a server that is away is waited for; None is the setting.
        """
        again_there = None if self.is_sqlite else again
        return self._run(work, None, begin=WRITING, again=again_there, retry_seconds=retry_seconds)

    def read(self, work: Callable[[Tx], T], *, now: datetime | None = None, retry_seconds: float | None = None) -> T:
        """Run `work` on one consistent view; it must not write. `retry_seconds` as in `write_at_once`."""
        return self._run(work, now, begin=READING, retry_seconds=retry_seconds)

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    def write_ahead(self) -> None:
        """Have an SQLite file written ahead (WAL)."""
        self._bare(files.write_ahead)

    def give_back(self) -> None:
        """Let an SQLite file become smaller by what it does not use, in small pieces."""
        while self.is_sqlite and self._bare(files.give_back):
            time.sleep(0.01)  # a claim that waits gets its turn

    def compact(self) -> tuple[int, int]:
        """Write an SQLite file anew, without what it does not use; its bytes before and after.

        Others wait meanwhile. From then on `give_back` works, also where the file is older than that.
        """
        return self._bare(files.rewrite)

    def _bare(self, work: Callable[[Connection], T]) -> T:
        """What is not possible inside a transaction."""
        return self._run(lambda tx: work(tx.connection), None, begin=None)

    def seconds(self) -> float:
        """A clock that runs with the injected one, or else evenly: for what is remembered for a while."""
        return self._clock().timestamp() if self._clock is not None and self.is_injected else time.monotonic()

    def _begin(self, dbapi_connection: PoolProxiedConnection) -> None:
        """Begin a transaction as `_run` said it for this one (None: not at all), or else to read.

        The drivers begin none of their own.
        """
        begin = dbapi_connection.info.pop(_BEGIN, READING)
        driver: Any = dbapi_connection.driver_connection
        if begin == WRITING and self.is_sqlite:
            files.begin_writing(driver)
        elif begin:
            driver.execute(READING)

    def _run(
        self,
        work: Callable[[Tx], T],
        moment: datetime | None,
        *,
        begin: str | None,
        again: Callable[[Tx], T] | None = None,
        retry_seconds: float | None = None,
    ) -> T:
        patience = Patience(self._retry_seconds if retry_seconds is None else retry_seconds, self._reached)
        lost: Sent[T] | None = None
        while True:
            sent: Sent[T] | None = None
            try:
                if lost is not None and again is not None:
                    commits.end(self.engine, lost.name)
                    return self._run(again, None, begin=WRITING, retry_seconds=retry_seconds)
                if lost is not None and commits.happened(self.engine, lost):
                    return lost.results[0]
                lost = None
                turn = self._writers if begin == WRITING else self._one_at_a_time
                with turn, self.engine.connect() as connection:
                    patience.reached = self._reached = True
                    session = None if self.is_sqlite else servers.session_of(connection)
                    sent = Sent(session.name) if session and begin == WRITING else None
                    if again is None:
                        connection.info[_BEGIN] = begin
                    around = connection.begin() if again is None else _by_itself(connection)
                    with around:  # only then the time: it may have waited for others
                        if session:
                            servers.let_plan_again(connection, session)
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
            except exc.TimeoutError as error:
                raise crowded(self.name, self.engine.pool, unsure=_may_be_written(lost)) from error
            except exc.DBAPIError as error:
                lost = lost or (sent if is_cut_off(error) else None)
                if not patience.allows(kind(error), str(error.orig)):
                    raise explained(self.name, error, unsure=_may_be_written(lost)) from error


@contextmanager
def _by_itself(connection: Connection) -> Iterator[None]:
    """A statement that is given to the driver needs no transaction around it, which SQLAlchemy takes its time to keep.

    Where there is one all the same it is committed: SQLAlchemy begins one when it is asked as well, and the driver when
    somebody took the connection out of the mode it was made in. Two statements on the driver would be two transactions.
    """
    yield
    if connection.in_transaction():
        connection.commit()
    else:
        servers.commit_what_is_open(connection)


def _may_be_written(lost: Sent[Any] | None) -> bool:
    return lost is not None and bool(lost.results and lost.traces)
