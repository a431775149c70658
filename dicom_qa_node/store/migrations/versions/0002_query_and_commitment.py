"""Headers of reports for queries; storage commitment in both directions"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dicom_qa_node.store.engine import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "report_headers",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("layout", sa.Integer(), nullable=False),
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("accession_number", sa.Text(), nullable=False),
        sa.Column("study_date", sa.Text(), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("header", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["sop_instance_uid"],
            ["reports.sop_instance_uid"],
            name=op.f("fk_report_headers_sop_instance_uid"),
        ),
        sa.PrimaryKeyConstraint("sop_instance_uid", name=op.f("pk_report_headers")),
    )
    for column in ("patient_id", "study_instance_uid", "series_instance_uid", "study_date"):
        op.create_index(f"ix_report_headers_{column}", "report_headers", [column])
    op.create_table(
        "commit_requests",
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("report_uid", sa.String(length=64), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("requested_at", UtcDateTime(), nullable=False),
        sa.Column("answered_at", UtcDateTime(), nullable=True),
        sa.Column("failure_reason", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["report_uid"], ["reports.sop_instance_uid"], name=op.f("fk_commit_requests_report_uid")
        ),
        sa.PrimaryKeyConstraint("transaction_uid", name=op.f("pk_commit_requests")),
    )
    op.create_index("ix_commit_requests_report_uid", "commit_requests", ["report_uid", "target"])
    op.create_table(
        "commit_replies",
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("calling_ae", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("items", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_attempt_at", UtcDateTime(), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.Column("last_answer", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("transaction_uid", "calling_ae", name=op.f("pk_commit_replies")),
    )
    op.create_index("ix_commit_replies_next_attempt_at", "commit_replies", ["finished_at", "next_attempt_at"])


def downgrade() -> None:
    op.drop_table("commit_replies")
    op.drop_table("commit_requests")
    op.drop_table("report_headers")
