"""An index of the refused objects by their time, for retention and for the latest of them."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_quarantine_at", "quarantine", ["at"])


def downgrade() -> None:
    op.drop_index("ix_quarantine_at", "quarantine")
