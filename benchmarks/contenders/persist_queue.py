"""persist-queue on SQLite: a queue for one process, whose items are acknowledged and stay."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from persistqueue import Empty, SQLiteAckQueue

from benchmarks.contenders import Work, file_of


class PersistQueue:
    """`get` and `ack`, each a transaction; SQLite's own default is durable."""

    def make(self, url: str) -> None:
        """Opening it makes the table."""
        _queue(url).close()

    def fill(self, url: str, number: int) -> None:
        """One after another: it has no other way."""
        with closing(_queue(url)) as queue:
            for _ in range(number):
                queue.put({"n": 1})

    @contextmanager
    def open(self, url: str, agent_id: str, batch: int) -> Iterator[Work]:  # noqa: ARG002 - one by one, nobody's name
        """It is opened for each time: it would not see what another has put since."""
        yield lambda: _all_of(url)


def _all_of(url: str) -> int:
    done = 0
    with closing(_queue(url)) as queue:
        while True:
            try:
                queue.ack(queue.get(block=False))
            except Empty:
                return done
            done += 1


def _queue(url: str) -> SQLiteAckQueue:
    file = Path(file_of(url))
    return SQLiteAckQueue(str(file.parent), db_file_name=file.name)
