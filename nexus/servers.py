"""What only a PostgreSQL server needs: how its connections are made, named, and kept from old plans."""

import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

PLANS_SECONDS: Final = 5.0
"""How long a connection keeps the plans of its prepared statements. By itself PostgreSQL keeps the plan for an empty
board until somebody analyzes the table, and that may be a minute after a hundred thousand tasks came: a claim took
15 ms meanwhile."""


@dataclass(slots=True)
class Session:
    """A connection, as the server knows it."""

    name: str
    """Its `application_name`, which no other has."""
    planned_at: float = field(default_factory=time.monotonic)


_sessions: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()


def options(connect_seconds: int) -> dict[str, Any]:
    """How a connection is made. How long to wait for a server that says nothing: at first, and amid a conversation.

    A server that is gone with its whole machine closes no connection. Without these the operating system would wait
    a quarter of an hour for what was sent, and two hours for an answer.
    """
    return {
        "autocommit": True,  # the driver must not begin transactions of its own
        "connect_timeout": connect_seconds,
        "keepalives_idle": connect_seconds,
        "keepalives_interval": max(1, connect_seconds // 3),
        "keepalives_count": 3,
        "tcp_user_timeout": 2_000 * connect_seconds,
    }


def name_connections(engine: Engine) -> None:
    """Give each connection its own `application_name`: what the URL says, or `nexus`, and a number drawn by lot."""

    @event.listens_for(engine, "do_connect")
    def _connect(dialect: Any, _record: Any, arguments: Any, parameters: dict[str, Any]) -> Any:
        given = str(parameters.get("application_name", "nexus"))
        # PostgreSQL keeps 63 bytes of it.
        name = f"{given.encode()[:30].decode(errors='ignore')} {uuid.uuid4().hex}"
        connection = dialect.connect(*arguments, **{**parameters, "application_name": name})
        _sessions[connection] = Session(name)
        return connection


def session_of(connection: Connection) -> Session:
    """What is known of a connection. No question to the server."""
    return _sessions[connection.connection.dbapi_connection]


def commit_what_is_open(connection: Connection) -> None:
    """Commit what the driver has begun, if anything. No question to the server where there is nothing."""
    driver: Any = connection.connection.dbapi_connection
    if not driver.autocommit:
        driver.commit()


def let_plan_again(connection: Connection, session: Session) -> None:
    """Forget plans that may have been made for a board of another size, now and then."""
    present = time.monotonic()
    if present - session.planned_at > PLANS_SECONDS:
        session.planned_at = present
        connection.exec_driver_sql("DISCARD PLANS")
