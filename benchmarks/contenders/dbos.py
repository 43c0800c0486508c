"""DBOS Transact: a task is a workflow, which its queue starts; it needs no account."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import psycopg
from dbos import DBOS, DBOSClient, DBOSConfig

from benchmarks.contenders import Work, dsn

LOOK_SECONDS = 0.05
"""Between two looks whether the database says that all is done."""

POLL_SECONDS = 0.02
"""Between two looks for work: its default of a second suits longer tasks."""

LEFT = "SELECT EXISTS (SELECT FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING'))"

_done = 0
_lock = Lock()


@DBOS.workflow(name="noop")
def noop(n: int) -> None:
    """The workflow; DBOS finds it by its name, and runs it in a thread."""
    global _done
    with _lock:
        _done += n


class DbosQueue:
    """An executor that takes as many workflows as others take tasks at once."""

    def make(self, url: str) -> None:
        """Its own schema, made by launching it; and the queue."""
        _launch(url, "maker")
        DBOS.register_queue("noop")
        DBOS.destroy()

    def fill(self, url: str, number: int) -> None:
        """One after another: it has no other way."""
        client = DBOSClient(system_database_url=dsn(url))
        for _ in range(number):
            client.enqueue({"workflow_name": "noop", "queue_name": "noop"}, 1)
        client.destroy()

    @contextmanager
    def open(self, url: str, agent_id: str, batch: int) -> Iterator[Work]:
        """It is launched for the time of the work only: it polls, and others are measured meanwhile."""
        with psycopg.connect(dsn(url), autocommit=True) as connection:
            yield lambda: _all_done(connection, url, agent_id, batch)


def _all_done(connection: psycopg.Connection[tuple[bool]], url: str, agent_id: str, batch: int) -> int:
    global _done
    _done = 0
    _launch(url, agent_id)
    DBOS.register_queue("noop", worker_concurrency=batch, polling_interval_sec=POLL_SECONDS)
    while connection.execute(LEFT).fetchone() == (True,):
        time.sleep(LOOK_SECONDS)
    DBOS.destroy()
    return _done


def _launch(url: str, executor: str) -> None:
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": dsn(url),
        "executor_id": executor,
        "application_version": "1",
        "log_level": "WARNING",
    }
    DBOS(config=config)
    DBOS.launch()
