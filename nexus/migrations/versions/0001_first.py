"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from nexus.sql import Moment

revision = "0001"
down_revision = None

VALUE = sa.JSON(none_as_null=True)
LIST = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "nexus_agents",
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("capabilities", LIST, nullable=False),
        sa.Column("max_concurrency", sa.Integer(), nullable=True),
        sa.Column("task_types", LIST, nullable=True),
        sa.Column("registered_at", Moment(), nullable=False),
        sa.Column("last_seen_at", Moment(), nullable=True),
        sa.CheckConstraint(
            "max_concurrency IS NULL OR max_concurrency > 0", name=op.f("ck_nexus_agents_max_concurrency")
        ),
        sa.PrimaryKeyConstraint("agent_id"),
    )
    op.create_table(
        "nexus_attempts",
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("claim_no", sa.Integer(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("started_at", Moment(), nullable=False),
        sa.Column("heartbeat_at", Moment(), nullable=True),
        sa.Column("finished_at", Moment(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("result", VALUE, nullable=True),
        sa.Column("late_result", VALUE, nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("run_ref", VALUE, nullable=True),
        sa.CheckConstraint("(outcome = 'running') = (finished_at IS NULL)", name=op.f("ck_nexus_attempts_finished")),
        sa.CheckConstraint(
            "outcome IN ('running', 'completed', 'failed', 'timed_out', 'lost', 'released', 'cancelled')",
            name=op.f("ck_nexus_attempts_outcome"),
        ),
        sa.PrimaryKeyConstraint("task_id", "number"),
    )
    op.create_index(
        "ix_nexus_attempts_open",
        "nexus_attempts",
        ["task_id"],
        unique=True,
        postgresql_where=sa.text("outcome = 'running'"),
        sqlite_where=sa.text("outcome = 'running'"),
    )
    op.create_table(
        "nexus_history",
        sa.Column("seq", SERIAL, autoincrement=True, nullable=False),
        sa.Column("task_id", sa.Text(), nullable=True),
        sa.Column("at", Moment(), nullable=False),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column("from_status", sa.Text(), nullable=True),
        sa.Column("to_status", sa.Text(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("claim_no", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("ix_nexus_history_task_id", "nexus_history", ["task_id"])
    op.create_table(
        "nexus_stalls",
        sa.Column("stall_id", SERIAL, autoincrement=True, nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("since", Moment(), nullable=False),
        sa.Column("opened_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("stall_id"),
    )
    op.create_index("ix_nexus_stalls_task_id_since", "nexus_stalls", ["task_id", "since"], unique=True)
    op.create_table(
        "nexus_tasks",
        sa.Column("seq", SERIAL, autoincrement=True, nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("task_type", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("payload", VALUE, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("previous_status", sa.Text(), nullable=True),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("tags", LIST, nullable=False),
        sa.Column("depends_on", LIST, nullable=False),
        sa.Column("unmet_dependencies", sa.Integer(), nullable=False),
        sa.Column("required_capabilities", LIST, nullable=False),
        sa.Column("assigned_to", sa.Text(), nullable=True),
        sa.Column("claimed_by", sa.Text(), nullable=True),
        sa.Column("claim_no", sa.Integer(), nullable=False),
        sa.Column("lease_expires_at", Moment(), nullable=True),
        sa.Column("lease_seconds", sa.Double(), nullable=True),
        sa.Column("attempt_count", sa.Integer(), nullable=False),
        sa.Column("failure_count", sa.Integer(), nullable=False),
        sa.Column("loss_count", sa.Integer(), nullable=False),
        sa.Column("retry_policy", VALUE, nullable=False),
        sa.Column("timeout_seconds", sa.Double(), nullable=True),
        sa.Column("requires_review", sa.Boolean(), nullable=False),
        sa.Column("available_at", Moment(), nullable=False),
        sa.Column("deadline", Moment(), nullable=True),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("updated_at", Moment(), nullable=False),
        sa.Column("pending_since", Moment(), nullable=True),
        sa.Column("result", VALUE, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("related_task_id", sa.Text(), nullable=True),
        sa.Column("episode_id", sa.Text(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("extra", VALUE, nullable=False),
        sa.Column("import_digest", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(status = 'pending') = (pending_since IS NOT NULL)", name=op.f("ck_nexus_tasks_pending_since")
        ),
        sa.CheckConstraint(
            "(status IN ('claimed', 'in_progress')) = (lease_expires_at IS NOT NULL) AND (lease_expires_at IS NULL OR claimed_by IS NOT NULL)",
            name=op.f("ck_nexus_tasks_lease"),
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'claimed', 'in_progress', 'blocked', 'in_review', 'completed', 'failed', 'cancelled', 'stalled')",
            name=op.f("ck_nexus_tasks_status"),
        ),
        sa.CheckConstraint(
            "claim_no >= 0 AND attempt_count >= 0 AND unmet_dependencies >= 0", name=op.f("ck_nexus_tasks_counts")
        ),
        sa.CheckConstraint(
            "pending_since IS NULL OR available_at >= pending_since", name=op.f("ck_nexus_tasks_available_at")
        ),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("idempotency_key"),
        sa.UniqueConstraint("task_id"),
    )
    op.create_index(
        "ix_nexus_tasks_available_at",
        "nexus_tasks",
        ["available_at"],
        postgresql_where=sa.text("status = 'pending' AND unmet_dependencies = 0"),
        sqlite_where=sa.text("status = 'pending' AND unmet_dependencies = 0"),
    )
    op.create_index(
        "ix_nexus_tasks_claimed_by",
        "nexus_tasks",
        ["claimed_by"],
        postgresql_where=sa.text("status IN ('claimed', 'in_progress')"),
        sqlite_where=sa.text("status IN ('claimed', 'in_progress')"),
    )
    op.create_index(
        "ix_nexus_tasks_episode_id_seq",
        "nexus_tasks",
        ["episode_id", "seq"],
        postgresql_where=sa.text("episode_id IS NOT NULL"),
        sqlite_where=sa.text("episode_id IS NOT NULL"),
    )
    op.create_index(
        "ix_nexus_tasks_lease_expires_at",
        "nexus_tasks",
        ["lease_expires_at"],
        postgresql_where=sa.text("status IN ('claimed', 'in_progress')"),
        sqlite_where=sa.text("status IN ('claimed', 'in_progress')"),
    )
    op.create_index(
        "ix_nexus_tasks_priority_available_at_seq",
        "nexus_tasks",
        ["priority", "available_at", "seq"],
        postgresql_where=sa.text("status = 'pending' AND unmet_dependencies = 0"),
        sqlite_where=sa.text("status = 'pending' AND unmet_dependencies = 0"),
    )
    op.create_table(
        "nexus_dependencies",
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("depends_on", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["depends_on"], ["nexus_tasks.task_id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["task_id"], ["nexus_tasks.task_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("task_id", "depends_on"),
    )
    op.create_index("ix_nexus_dependencies_depends_on", "nexus_dependencies", ["depends_on"])
    op.create_table(
        "nexus_stall_steps",
        sa.Column("stall_id", SERIAL, nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("at", Moment(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["stall_id"], ["nexus_stalls.stall_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("stall_id", "step"),
    )
