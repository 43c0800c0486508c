"""litequeue: one table, a row a message, which stays when it is done."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from sqlite3 import Connection

from litequeue import LiteQueue

from benchmarks.contenders import Work, file_of


class LiteQueueWorker:
    """`pop` and `done`, as durable as the others: it would come with `synchronous = NORMAL`."""

    def make(self, url: str) -> None:
        """Opening it makes the table."""
        with closing(_queue(url).conn):
            pass

    def fill(self, url: str, number: int) -> None:
        """One transaction."""
        queue = _queue(url)
        with closing(queue.conn), queue.transaction():
            for _ in range(number):
                queue.put('{"n":1}')

    @contextmanager
    def open(self, url: str, agent_id: str, batch: int) -> Iterator[Work]:  # noqa: ARG002 - one by one, nobody's name
        """One connection."""
        queue = _queue(url)
        connection: Connection = queue.conn

        def work() -> int:
            done = 0
            while message := queue.pop():
                queue.done(message.message_id)
                done += 1
            return done

        with closing(connection):
            yield work


def _queue(url: str) -> LiteQueue:
    queue = LiteQueue(file_of(url), timeout=30)
    queue.conn.execute("PRAGMA synchronous = FULL")
    return queue
