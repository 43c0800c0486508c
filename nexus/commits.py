"""What became of a transaction whose connection broke (PostgreSQL).

A COMMIT whose answer never came may have happened, or not, or may be about to. To do the verb again would then be to
do it twice, or to be refused because of oneself. So each connection has a name of its own, by which the session that
it left on the server can be found, and ended: from then on the answer is final. And each transaction notes a row that
only it can have left (its line in the history); where that row is there, all of it is. No statement is added to a
transaction that goes well.

What leaves no such row (a heartbeat, the registration of an agent) can be done twice without harm.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Engine

T = TypeVar("T")

Trace = Callable[[], sa.Select[Any]]
"""Makes the query for what a transaction left; it is asked for only where an answer was lost."""

ENDING_SECONDS: Final = 5.0
"""What a session that was told to end may take for it; it is a matter of milliseconds."""

_END: Final = sa.text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name AND pid <> pg_backend_pid()"
)


class Undecided(Exception):
    """The session that a broken connection left does not end, so nobody knows yet."""


@dataclass
class Sent(Generic[T]):
    """A transaction on its way."""

    name: str
    """Of its connection."""
    traces: Sequence[Trace] = ()
    results: Sequence[T] = ()
    """What it came to, once nothing but the COMMIT was left to do."""


def end(engine: Engine, name: str) -> None:
    """End the session that a broken connection left. When this returns nothing of it is under way.

    Raises `Undecided`.
    """
    deadline = time.monotonic() + ENDING_SECONDS
    while name:
        with engine.begin() as connection:  # a new one each time: a transaction sees the same sessions all along
            if not connection.execute(_END, {"name": name}).first():
                break
        if time.monotonic() > deadline:
            raise Undecided
        time.sleep(0.01)


def happened(engine: Engine, sent: Sent[Any]) -> bool:
    """Whether a transaction whose connection broke was committed; its session is ended first. Raises `Undecided`."""
    end(engine, sent.name)
    if not sent.results or not sent.traces:
        return False
    with engine.begin() as connection:
        return all(connection.execute(trace()).first() is not None for trace in sent.traces)


def row_of(table: sa.Table, **values: Any) -> Trace:
    """The trace that is a row with these values, which no other transaction can have written."""
    return lambda: sa.select(sa.literal(1)).select_from(table).where(*(table.c[key] == values[key] for key in values))
