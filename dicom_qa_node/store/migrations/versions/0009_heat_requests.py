"""Heat maps that people ask for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dicom_qa_node.store.engine import UtcDateTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "heat_requests",
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("asked_at", UtcDateTime(), nullable=False),
        sa.Column("asked_by", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_token", sa.Text(), nullable=True),
        sa.Column("lease_until", UtcDateTime(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("problem", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(
            ["series_instance_uid"], ["series.series_instance_uid"], name=op.f("fk_heat_requests_series_instance_uid")
        ),
        sa.PrimaryKeyConstraint("series_instance_uid", "version", name=op.f("pk_heat_requests")),
    )
    op.create_index("ix_heat_requests_ended_at", "heat_requests", ["ended_at", "asked_at"])


def downgrade() -> None:
    op.drop_table("heat_requests")
