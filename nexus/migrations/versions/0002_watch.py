"""Stalls with a ladder of steps, sweeps and pauses as rows, deadlines, what becomes of a task whose dependency ended."""

import sqlalchemy as sa
from alembic import op

from nexus.sql import Moment

revision = "0002"
down_revision = "0001"

SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add what watches the board; open stalls and escalations of before are carried over."""
    _tasks()
    _attempts_and_history()
    _stalls()
    _carry_over()
    op.create_table(
        "nexus_sweeps",
        sa.Column("sweep_id", SERIAL, autoincrement=True, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("started_at", Moment(), nullable=False),
        sa.Column("finished_at", Moment(), nullable=False),
        sa.Column("scanned", sa.Integer(), nullable=False),
        sa.Column("acted", sa.Integer(), nullable=False),
        sa.Column("conflicts", sa.Integer(), nullable=False),
        sa.Column("skipped", sa.Integer(), nullable=False),
        sa.Column("more", sa.Boolean(), nullable=False),
        sa.Column("settings_hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sweep_id"),
    )
    op.create_table(
        "nexus_pauses",
        sa.Column("task_type", sa.Text(), nullable=False),
        sa.Column("at", Moment(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("task_type"),
    )


def _add(table: str, column: str) -> None:
    """A column with a named CHECK, which SQLite takes in this form only."""
    op.execute(sa.text(f"ALTER TABLE {table} ADD COLUMN {column}"))


def _partial(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    op.create_index(name, table, columns, unique=unique, postgresql_where=sa.text(where), sqlite_where=sa.text(where))


def _tasks() -> None:
    for name in ("stall_id", "previous_stall_id", "overdue_id", "escalates"):
        op.add_column("nexus_tasks", sa.Column(name, sa.BigInteger(), nullable=True))
    _add(
        "nexus_tasks",
        "on_dependency_failure TEXT DEFAULT 'wait' NOT NULL CONSTRAINT ck_nexus_tasks_on_dependency_failure "
        "CHECK (on_dependency_failure IN ('wait', 'cancel', 'run'))",
    )
    op.drop_index("ix_nexus_tasks_available_at", "nexus_tasks")
    _partial(
        "ix_nexus_tasks_available_at",
        "nexus_tasks",
        ["available_at"],
        "status = 'pending' AND unmet_dependencies = 0 AND stall_id IS NULL",
    )
    _partial(
        "ix_nexus_tasks_deadline",
        "nexus_tasks",
        ["deadline"],
        "deadline IS NOT NULL AND overdue_id IS NULL AND status NOT IN ('completed', 'failed', 'cancelled')",
    )
    _partial("ix_nexus_tasks_escalates", "nexus_tasks", ["escalates"], "escalates IS NOT NULL", unique=True)
    _partial(
        "ix_nexus_tasks_asking",
        "nexus_tasks",
        ["escalates"],
        "escalates IS NOT NULL AND status NOT IN ('completed', 'failed', 'cancelled')",
    )


def _attempts_and_history() -> None:
    op.add_column("nexus_attempts", sa.Column("run_closed_at", Moment(), nullable=True))
    _partial(
        "ix_nexus_attempts_untold",
        "nexus_attempts",
        ["finished_at"],
        "outcome IN ('lost', 'released', 'cancelled') AND run_ref IS NOT NULL AND run_closed_at IS NULL",
    )
    op.add_column("nexus_history", sa.Column("waited_seconds", sa.Double(), nullable=True))


def _stalls() -> None:
    moment = "TIMESTAMP WITH TIME ZONE" if op.get_bind().dialect.name == "postgresql" else "BIGINT"
    _add(
        "nexus_stalls",
        "kind TEXT DEFAULT 'waiting' NOT NULL CONSTRAINT ck_nexus_stalls_kind CHECK (kind IN ('waiting', 'deadline'))",
    )
    for name, default in (("why", ""), ("policy", "default"), ("settings_hash", "")):
        op.add_column("nexus_stalls", sa.Column(name, sa.Text(), nullable=False, server_default=default))
    _add(
        "nexus_stalls",
        f"closed_at {moment} CONSTRAINT ck_nexus_stalls_closed_at CHECK (closed_at IS NULL OR closed_at >= opened_at)",
    )
    op.add_column("nexus_stalls", sa.Column("closed_by", sa.Text(), nullable=True))
    op.add_column("nexus_stalls", sa.Column("next_step_at", Moment(), nullable=True))
    op.drop_index("ix_nexus_stalls_task_id_since", "nexus_stalls")
    op.create_index("ix_nexus_stalls_task_id_kind_since", "nexus_stalls", ["task_id", "kind", "since"], unique=True)
    _partial(
        "ix_nexus_stalls_next_step_at",
        "nexus_stalls",
        ["next_step_at"],
        "closed_at IS NULL AND next_step_at IS NOT NULL",
    )
    _partial("ix_nexus_stalls_open", "nexus_stalls", ["settings_hash"], "closed_at IS NULL")
    op.add_column("nexus_stall_steps", sa.Column("told_at", Moment(), nullable=True))
    _partial("ix_nexus_stall_steps_untold", "nexus_stall_steps", ["at"], "step = 'notify' AND told_at IS NULL")


def _carry_over() -> None:
    """The stalls of the first schema: the present waiting period's stays open, and knows its escalation."""
    op.execute(
        sa.text(
            "UPDATE nexus_tasks SET stall_id = (SELECT stall_id FROM nexus_stalls AS s "
            "WHERE s.task_id = nexus_tasks.task_id AND s.since = nexus_tasks.available_at) "
            "WHERE status IN ('pending', 'stalled')"
        )
    )
    op.execute(
        sa.text(
            "UPDATE nexus_stalls SET closed_at = opened_at, closed_by = 'upgrade' "
            "WHERE stall_id NOT IN (SELECT stall_id FROM nexus_tasks WHERE stall_id IS NOT NULL)"
        )
    )
    op.execute(
        sa.text(
            "UPDATE nexus_tasks SET escalates = (SELECT stall_id FROM nexus_stall_steps AS s "
            "WHERE s.step = 'escalate' AND s.detail = 'escalated as ' || nexus_tasks.task_id) "
            "WHERE task_type = 'escalation' AND related_task_id IS NOT NULL"
        )
    )
