"""Routing of reports, return to sender, forms of another SOP class, order by study."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_STUDY = "(SELECT series.study_instance_uid FROM series WHERE series.series_instance_uid = outbox.series_instance_uid)"


def upgrade() -> None:
    for name in ("study_instance_uid", "sent_uid"):
        op.add_column("outbox", sa.Column(name, sa.String(length=64), server_default="", nullable=False))
    for name in ("sender_ae", "sender_host"):
        op.add_column("outbox", sa.Column(name, sa.Text(), server_default="", nullable=False))
    op.execute(f"UPDATE outbox SET study_instance_uid = COALESCE({_STUDY}, '')")
    op.create_index("ix_outbox_study_instance_uid", "outbox", ["study_instance_uid", "target"])
    op.create_index("ix_outbox_target", "outbox", ["target", "state", "next_attempt_at"])
    op.create_table(
        "unrouted",
        sa.Column("report_uid", sa.String(length=64), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["report_uid"], ["reports.sop_instance_uid"], name=op.f("fk_unrouted_report_uid")),
        sa.PrimaryKeyConstraint("report_uid", "target", name=op.f("pk_unrouted")),
    )
    op.add_column(
        "commit_requests", sa.Column("sop_instance_uid", sa.String(length=64), server_default="", nullable=False)
    )
    op.execute("UPDATE commit_requests SET sop_instance_uid = report_uid")
