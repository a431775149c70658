"""Images that retention has removed from the spool."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("series", sa.Column("forgotten", sa.Integer(), nullable=False, server_default="0"))
