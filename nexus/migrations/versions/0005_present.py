"""The claim and the attempt that go on stand on their task; attempts and history hold what is over."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from nexus.sql import JsonText, Moment

revision = "0005"
down_revision = "0004"

HELD = "status IN ('claimed', 'in_progress')"
WELL_FORMED = (
    "CASE WHEN status = 'pending' THEN pending_since IS NOT NULL AND available_at >= pending_since AND lease_expires_at IS NULL "
    "WHEN status IN ('claimed', 'in_progress') THEN pending_since IS NULL AND lease_expires_at IS NOT NULL AND claimed_by IS NOT NULL "
    "ELSE (status = 'completed' OR status IN ('blocked', 'in_review', 'failed', 'cancelled', 'stalled')) AND pending_since IS NULL AND lease_expires_at IS NULL END"
)
IS_OVER = "outcome = 'completed' OR outcome IN ('failed', 'timed_out', 'lost', 'released', 'cancelled')"


def upgrade() -> None:
    """Add the columns, and move there what goes on."""
    _columns()
    _carry_over()
    _indexes()
    _tables() if op.get_bind().dialect.name == "postgresql" else _sqlite_tables()


def _columns() -> None:
    for column in (
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("claim_key", sa.BigInteger(), nullable=True),
        sa.Column("claimed_at", Moment(), nullable=True),
        sa.Column("waited_seconds", sa.Double(), nullable=True),
        sa.Column("started_at", Moment(), nullable=True),
        sa.Column("heartbeat_at", Moment(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("run_ref", JsonText, nullable=True),
        sa.Column("added_by", sa.Text(), nullable=True),
    ):
        op.add_column("nexus_tasks", column)
    for column in (
        sa.Column("claimed_at", Moment(), nullable=True),
        sa.Column("waited_seconds", sa.Double(), nullable=True),
        sa.Column("led_to", sa.Text(), nullable=True),
    ):
        op.add_column("nexus_attempts", column)


def _carry_over() -> None:
    """Open attempts, and what the history says of claims that go on: from now on it is read from their tasks."""
    for name in ("started_at", "heartbeat_at", "note", "run_ref"):
        _run(
            f"UPDATE nexus_tasks SET {name} = (SELECT a.{name} FROM nexus_attempts AS a "
            "WHERE a.task_id = nexus_tasks.task_id AND a.outcome = 'running') WHERE status = 'in_progress'"
        )
    _run("DELETE FROM nexus_attempts WHERE outcome = 'running'")
    for name, kept in (("claimed_at", "at"), ("waited_seconds", "waited_seconds")):
        _run(
            f"UPDATE nexus_tasks SET {name} = (SELECT MAX(h.{kept}) FROM nexus_history AS h "
            "WHERE h.task_id = nexus_tasks.task_id AND h.claim_no = nexus_tasks.claim_no AND h.verb = 'claim') "
            f"WHERE {HELD}"
        )
    _run(f"UPDATE nexus_tasks SET holder = claimed_by WHERE {HELD}")
    _run(
        "DELETE FROM nexus_history WHERE verb IN ('claim', 'start') AND EXISTS (SELECT 1 FROM nexus_tasks AS t "
        f"WHERE t.task_id = nexus_history.task_id AND t.claim_no = nexus_history.claim_no AND t.{HELD} "
        "AND t.claimed_at IS NOT NULL)"
    )


def _tables() -> None:
    """Say anew what a row must be: one CHECK for all that a status asks, and none for an attempt that goes on."""
    for table, name in (
        ("nexus_tasks", "status"),
        ("nexus_tasks", "lease"),
        ("nexus_tasks", "pending_since"),
        ("nexus_tasks", "available_at"),
        ("nexus_attempts", "outcome"),
        ("nexus_attempts", "finished"),
    ):
        _run(f"ALTER TABLE {table} DROP CONSTRAINT ck_{table}_{name}")
    _run(f"ALTER TABLE nexus_tasks ADD CONSTRAINT ck_nexus_tasks_status CHECK ({WELL_FORMED})")
    _run(f"ALTER TABLE nexus_attempts ADD CONSTRAINT ck_nexus_attempts_outcome CHECK ({IS_OVER})")
    _run("ALTER TABLE nexus_attempts ALTER COLUMN finished_at SET NOT NULL")
    _run("ALTER TABLE nexus_tasks DROP CONSTRAINT nexus_tasks_idempotency_key_key")
    # A row of an attempt is written once now, and never grows.
    _run("ALTER TABLE nexus_attempts RESET (fillfactor)")


def _sqlite_tables() -> None:
    """The same, where a table can only be written anew. The edges go with the old one, and come back."""
    _run("CREATE TEMPORARY TABLE kept AS SELECT task_id, depends_on FROM nexus_dependencies")
    counts = "claim_no >= 0 AND attempt_count >= 0 AND unmet_dependencies >= 0"
    whatever = "on_dependency_failure IN ('wait', 'cancel', 'run')"
    checks = {"status": WELL_FORMED, "counts": counts, "on_dependency_failure": whatever}
    _written_anew("nexus_tasks", checks, unique="task_id")
    _run("INSERT INTO nexus_dependencies (task_id, depends_on) SELECT task_id, depends_on FROM kept")
    _run("DROP TABLE kept")
    _written_anew("nexus_attempts", {"outcome": IS_OVER})


def _written_anew(name: str, checks: dict[str, str], unique: str | None = None) -> None:
    bind = op.get_bind()
    there = sa.Table(name, sa.MetaData(), autoload_with=bind)
    asked = sa.text("SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = :name AND sql IS NOT NULL")
    indexes = list(bind.execute(asked, {"name": name}).scalars())
    columns = [
        sa.Column(
            one.name,
            one.type,
            nullable=one.nullable and one.name != "finished_at",
            server_default=one.server_default,
            primary_key=one.primary_key,
        )
        for one in there.columns
    ]
    constraints: list[Any] = [sa.CheckConstraint(text, name=f"ck_{name}_{check}") for check, text in checks.items()]
    if unique:
        constraints.append(sa.UniqueConstraint(unique))
    sa.Table(f"{name}_new", sa.MetaData(), *columns, *constraints).create(bind)
    listed = ", ".join(column.name for column in columns)
    _run(f"INSERT INTO {name}_new ({listed}) SELECT {listed} FROM {name}")
    _run(f"DROP TABLE {name}")
    _run(f"ALTER TABLE {name}_new RENAME TO {name}")
    for index in indexes:
        _run(index)


def _indexes() -> None:
    """One index where two were, and two where one was written in the middle with each completion."""
    op.drop_index("ix_nexus_attempts_open", "nexus_attempts")
    for name in ("lease_expires_at", "claimed_by", "ended"):
        op.drop_index(f"ix_nexus_tasks_{name}", "nexus_tasks")
    _partial("held", ["claimed_by", "lease_expires_at"], HELD)
    _partial("completed", ["updated_at", "seq"], "status = 'completed'")
    _partial("given_up", ["status", "updated_at", "seq"], "status IN ('cancelled', 'failed')")
    _partial("idempotency_key", ["idempotency_key"], "idempotency_key IS NOT NULL", unique=True)


def _partial(name: str, columns: list[str], words: str, *, unique: bool = False) -> None:
    where = sa.text(words)
    index = f"ix_nexus_tasks_{name}"
    op.create_index(index, "nexus_tasks", columns, unique=unique, postgresql_where=where, sqlite_where=where)


def _run(statement: str) -> None:
    op.execute(sa.text(statement))
