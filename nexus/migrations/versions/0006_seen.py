"""Who looks on: attempts in the order in which they ended, and how far the board's moves were told elsewhere."""

import sqlalchemy as sa
from alembic import op

from nexus.sql import JsonText, Moment

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """An index to whose end each attempt only adds; a small table."""
    op.create_index("ix_nexus_attempts_finished_at", "nexus_attempts", ["finished_at"])
    op.create_table(
        "nexus_relays",
        sa.Column("target", sa.Text(), primary_key=True),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("lease_expires_at", Moment(), nullable=False),
        sa.Column("place", JsonText, nullable=True),
    )
