"""Whether a scored version still has its pictures, so that retention can remove them after their time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_PICTURED = sa.text("pictures > 0")


def upgrade() -> None:
    op.add_column("results", sa.Column("pictures", sa.SmallInteger(), nullable=False, server_default="1"))
    op.create_index("ix_results_pictures", "results", ["scored_at"], sqlite_where=_PICTURED, postgresql_where=_PICTURED)


def downgrade() -> None:
    op.drop_index("ix_results_pictures", "results")
    with op.batch_alter_table("results") as results:
        results.drop_column("pictures")
