"""Pruning: an index by which it finds what ended long ago; autovacuum that keeps up with the tables that move."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

STORAGE = {
    # Every move of a task leaves a dead row, and a dead entry in the index that claims read in order. At the default
    # of a fifth of the table, claims on a board of a million would step over two hundred thousand of them.
    "nexus_tasks": {
        "autovacuum_vacuum_threshold": "500",
        "autovacuum_vacuum_scale_factor": "0.01",
        "autovacuum_analyze_scale_factor": "0.02",
    },
    # A heartbeat changes no indexed column: with room on its page it stays there, and no index is touched. (Tasks
    # have no use for room: their status stands in the condition of most of their indexes.)
    "nexus_attempts": {
        "fillfactor": "85",
        "autovacuum_vacuum_threshold": "500",
        "autovacuum_vacuum_scale_factor": "0.02",
    },
    # Only ever added to, and deleted from by pruning.
    "nexus_history": {
        "autovacuum_vacuum_threshold": "1000",
        "autovacuum_vacuum_scale_factor": "0.02",
    },
}


def upgrade() -> None:
    """Two partial indexes of tasks; the storage parameters of the tables that are written most."""
    _partial("ix_nexus_tasks_ended", ["status", "updated_at", "seq"], "status IN ('cancelled', 'completed', 'failed')")
    _partial(
        "ix_nexus_tasks_related",
        ["related_task_id"],
        "related_task_id IS NOT NULL AND status NOT IN ('completed', 'failed', 'cancelled')",
    )
    if op.get_bind().dialect.name == "postgresql":
        for table, parameters in STORAGE.items():
            listed = ", ".join(f"{name} = {value}" for name, value in parameters.items())
            op.execute(sa.text(f"ALTER TABLE {table} SET ({listed})"))


def _partial(name: str, columns: list[str], where: str) -> None:
    op.create_index(name, "nexus_tasks", columns, postgresql_where=sa.text(where), sqlite_where=sa.text(where))
