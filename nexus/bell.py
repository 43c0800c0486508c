"""Rings when there may be work: PostgreSQL says so (LISTEN), SQLite's file is seen to change.

A bell only wakes somebody who then claims, so it may ring for nothing, and whoever waits also looks now and then:
a pooler may swallow LISTEN, a lease may end, a backoff may be over.
"""

import logging
import threading
import time
from contextlib import suppress
from typing import Any, Final

from nexus.engine import Database
from nexus.records import CHANNEL

POLL_SECONDS: Final = 0.02
"""Between two looks at an SQLite file. A look costs some microseconds: it asks for a counter in shared memory."""

logger = logging.getLogger("nexus.bell")


class Bell:
    """For one waiting thread. Opens a connection of its own at the first `wait`; `close` ends a wait that goes on."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Any = None
        """Detached from the pool: it listens, so nobody else is to get it."""
        self._driver: Any = None
        self._version: int | None = None
        self._closed = threading.Event()

    def wait(self, seconds: float) -> bool:
        """Wait for a ring, at most `seconds`; whether it rang. A database that is away is waited for in silence."""
        if self._closed.is_set():
            return False
        if self._database.is_in_memory:  # its one connection is everybody's
            self._closed.wait(seconds)
            return True
        try:
            if self._connection is None:
                self._open()
                return True  # what was rung for before somebody listened
            return self._watched(seconds) if self._database.is_sqlite else self._heard(seconds)
        except Exception as error:
            logger.debug("not listening: %s", error)
            self._hang_up()
            self._closed.wait(seconds)
            return False

    def close(self) -> None:
        """End the wait within a moment, and give the connection back."""
        self._closed.set()

    def _open(self) -> None:
        connection = self._database.engine.raw_connection()
        self._driver = connection.driver_connection
        connection.detach()
        self._connection = connection  # which, forgotten, would close itself
        if not self._database.is_sqlite:
            self._driver.execute(f"LISTEN {CHANNEL}")

    def _heard(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not self._closed.is_set() and (left := until - time.monotonic()) > 0:
            for _ in self._driver.notifies(timeout=min(left, 0.5), stop_after=1):
                return True
        self._hang_up_if_closed()
        return False

    def _watched(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while True:
            (version,) = self._driver.execute("PRAGMA data_version").fetchone()
            if version != self._version:
                self._version = version
                return True
            left = until - time.monotonic()
            if left <= 0 or self._closed.wait(min(left, POLL_SECONDS)):
                self._hang_up_if_closed()
                return False

    def _hang_up_if_closed(self) -> None:
        if self._closed.is_set():
            self._hang_up()

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.close()
