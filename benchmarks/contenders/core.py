"""Plain SQLAlchemy Core, as its best: set-based statements over one narrow table, that can be planned once.

What the nexus is measured against: a claim with its attempt row, and a completion. No history, no leases to renew,
no dependencies, no capabilities, nobody to explain anything to.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import sqlalchemy as sa

from benchmarks.contenders import Work

metadata = sa.MetaData()
Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
tasks = sa.Table(
    "core_tasks",
    metadata,
    sa.Column("id", Serial, primary_key=True, autoincrement=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("claimed_by", sa.Text),
    sa.Column("claim_no", sa.Integer, nullable=False),
    sa.Column("lease_expires_at", sa.BigInteger),
    sa.Column("result", sa.Text),
)
sa.Index(
    "core_claim",
    tasks.c.priority,
    tasks.c.id,
    sqlite_where=sa.text("status = 'pending'"),
    postgresql_where=sa.text("status = 'pending'"),
)
attempts = sa.Table(
    "core_attempts",
    metadata,
    sa.Column("task_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("agent_id", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("finished_at", sa.BigInteger),
)


class Core:
    """Claim and completion, each one transaction."""

    def make(self, url: str) -> None:
        """Two tables and one index."""
        engine = engine_of(url)
        metadata.create_all(engine)
        engine.dispose()

    def fill(self, url: str, number: int) -> None:
        """An INSERT of many rows, in one transaction."""
        engine = engine_of(url)
        rows = [{"status": "pending", "priority": 20, "payload": '{"n":1}', "claim_no": 0} for _ in range(number)]
        with engine.begin() as connection:
            connection.execute(sa.insert(tasks), rows)
        engine.dispose()

    @contextmanager
    def open(self, url: str, agent_id: str, batch: int) -> Iterator[Work]:
        """One connection."""
        engine = engine_of(url)
        rounds = _sqlite_round if engine.dialect.name == "sqlite" else _postgresql_round
        with engine.connect() as connection:

            def work() -> int:
                done = 0
                while number := rounds(connection, agent_id, batch):
                    done += number
                return done

            yield work
        engine.dispose()


def engine_of(url: str) -> sa.Engine:
    """As durable as the nexus; on PostgreSQL each statement is a transaction."""
    if url.startswith("sqlite"):
        engine = sa.create_engine(url)

        @sa.event.listens_for(engine, "connect")
        def _configure(connection: Any, _record: Any) -> None:
            connection.isolation_level = None
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 30000"):
                connection.execute(f"PRAGMA {pragma}")

        @sa.event.listens_for(engine, "begin")
        def _begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        return engine
    return sa.create_engine(url, isolation_level="AUTOCOMMIT")


PENDING = tasks.c.status == sa.literal_column("'pending'")
NOW = sa.bindparam("now", type_=sa.BigInteger())


@cache
def _claim(batch: int) -> sa.Update:
    first = (
        sa.select(tasks.c.id).where(PENDING).order_by(tasks.c.priority, tasks.c.id).limit(sa.literal_column(str(batch)))
    )
    return (
        sa.update(tasks)
        .where(tasks.c.id.in_(first))
        .values(status="claimed", claimed_by=sa.bindparam("agent"), claim_no=tasks.c.claim_no + 1, lease_expires_at=NOW)
        .returning(tasks.c.id, tasks.c.claim_no, tasks.c.payload)
    )


_LISTED = sa.text("SELECT value FROM json_each(:batch)").columns(sa.Column("value", sa.Integer))


@cache
def _sqlite_statements() -> tuple[Any, Any, Any]:
    listed = _LISTED.subquery()
    opened = sa.select(
        listed.c.value, sa.literal_column("1"), sa.bindparam("agent"), sa.literal_column("'running'"), NOW
    )
    return (
        sa.insert(attempts).from_select(["task_id", "number", "agent_id", "outcome", "started_at"], opened),
        sa.update(tasks)
        .where(tasks.c.id.in_(sa.select(listed.c.value)), tasks.c.status == sa.literal_column("'claimed'"))
        .values(status="completed", lease_expires_at=None, result="null"),
        sa.update(attempts)
        .where(attempts.c.task_id.in_(sa.select(listed.c.value)), attempts.c.number == sa.literal_column("1"))
        .values(outcome="completed", finished_at=NOW),
    )


def _sqlite_round(connection: sa.Connection, agent_id: str, batch: int) -> int:
    opened, completed, closed = _sqlite_statements()
    with connection.begin():
        rows = connection.execute(_claim(batch), {"agent": agent_id, "now": 1}).all()
        ids = json.dumps([row.id for row in rows])
        connection.execute(opened, {"batch": ids, "agent": agent_id, "now": 1})
    if rows:
        with connection.begin():
            connection.execute(completed, {"batch": ids})
            connection.execute(closed, {"batch": ids, "now": 2})
    return len(rows)


@cache
def _postgresql_statements(batch: int) -> tuple[Any, Any]:
    first = sa.select(tasks.c.id).where(PENDING).order_by(tasks.c.priority, tasks.c.id)
    first = first.limit(sa.literal_column(str(batch))).with_for_update(skip_locked=True)
    any_of = sa.func.any(sa.func.array(first.scalar_subquery(), type_=sa.ARRAY(sa.BigInteger)))
    claimed = (
        sa.update(tasks)
        .where(tasks.c.id == any_of)
        .values(
            status=sa.literal_column("'claimed'"),
            claimed_by=sa.bindparam("agent"),
            claim_no=tasks.c.claim_no + 1,
            lease_expires_at=NOW,
        )
        .returning(tasks.c.id, tasks.c.claim_no, tasks.c.payload)
        .cte("claimed")
    )
    rows = sa.select(claimed.c.id, sa.literal_column("1"), sa.bindparam("agent"), sa.literal_column("'running'"), NOW)
    opened = (
        sa.insert(attempts).from_select(["task_id", "number", "agent_id", "outcome", "started_at"], rows).cte("opened")
    )
    ids = sa.func.any(sa.bindparam("batch", type_=sa.ARRAY(sa.BigInteger)))
    completed = (
        sa.update(tasks)
        .where(tasks.c.id == ids, tasks.c.status == sa.literal_column("'claimed'"))
        .values(status=sa.literal_column("'completed'"), lease_expires_at=None, result=sa.literal_column("'null'"))
        .cte("completed")
    )
    closed = (
        sa.update(attempts)
        .where(attempts.c.task_id == ids, attempts.c.number == sa.literal_column("1"))
        .values(outcome=sa.literal_column("'completed'"), finished_at=NOW)
    )
    return sa.select(claimed).add_cte(opened), closed.add_cte(completed)


def _postgresql_round(connection: sa.Connection, agent_id: str, batch: int) -> int:
    claim, complete = _postgresql_statements(batch)
    rows = connection.execute(claim, {"agent": agent_id, "now": 1}).all()
    if rows:
        connection.execute(complete, {"batch": [row.id for row in rows], "now": 2})
    return len(rows)
