"""What lets the hot verbs look at nothing but their own rows: who is awaited, and which agent changed."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add both, and fill in who is awaited already."""
    op.add_column("nexus_tasks", sa.Column("awaited", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("nexus_agents", sa.Column("revision", sa.Integer(), nullable=False, server_default="0"))
    op.execute(
        sa.text("UPDATE nexus_tasks SET awaited = true WHERE task_id IN (SELECT depends_on FROM nexus_dependencies)")
    )
