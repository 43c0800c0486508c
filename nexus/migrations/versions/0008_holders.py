"""What was imported as claimed, before an import said whose the claim is, gets its holder."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Without one an attempt that began under such a claim could never be written down, so its task could not end."""
    op.execute(
        "UPDATE nexus_tasks SET holder = claimed_by WHERE holder IS NULL AND status IN ('claimed', 'in_progress')"
    )
