"""Claims that pass over what waits for others: by lane, on the whole board and in an episode."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

ASKED = {
    "postgresql": "((COALESCE(assigned_to, '') || chr(9) || "
    "(CASE WHEN octet_length(CAST(required_capabilities AS text)) < 1000 THEN CAST(required_capabilities AS text) "
    "ELSE CAST(hashtextextended(CAST(required_capabilities AS text), 0) AS text) END) "
    '|| chr(9) || task_type) COLLATE "C")',
    "sqlite": "(coalesce(assigned_to, '') || char(9) || required_capabilities || char(9) || task_type)",
}
"""What a task asks of whoever claims it."""


Column = str | sa.TextClause


def upgrade() -> None:
    """Two partial indexes of tasks."""
    lane = sa.text(ASKED[op.get_bind().dialect.name])
    turn: list[Column] = [lane, "priority", "available_at", "seq"]
    _partial("ix_nexus_tasks_lane", turn, "status = 'pending' AND unmet_dependencies = 0")
    _partial(
        "ix_nexus_tasks_episode_lane",
        ["episode_id", *turn],
        "status = 'pending' AND unmet_dependencies = 0 AND episode_id IS NOT NULL",
    )


def _partial(name: str, columns: list[Column], where: str) -> None:
    op.create_index(name, "nexus_tasks", columns, postgresql_where=sa.text(where), sqlite_where=sa.text(where))
