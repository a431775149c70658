"""Tables and columns of the review queue and saved filters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dicom_qa_node.db.engine import UtcDateTime

__all__ = ["create", "drop"]

_OPEN = "closed_at IS NULL"
_WAITS = "latest = 1 AND review + 0 = 0 AND (grade + 0 = 3 OR (grade + 0 = 2 AND severity >= 2))"
_ACCOUNT = "accounts.account_id"


def create() -> None:
    """Create the tables, columns and indexes."""
    _assignments()
    op.create_table(
        "saved_filters",
        sa.Column("filter_id", sa.Integer, primary_key=True),
        sa.Column("account_id", sa.Integer, sa.ForeignKey(_ACCOUNT), nullable=False),
        sa.Column("name", sa.String(60), nullable=False),
        sa.Column("query", sa.Text, nullable=False),
        sa.Column("shared", sa.Boolean, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Index("ix_saved_filters_account_id", "account_id", "name", unique=True),
        sa.Index("ix_saved_filters_shared", "shared", "name"),
    )
    op.create_table(
        "notification_watermarks",
        sa.Column("account_id", sa.Integer, sa.ForeignKey(_ACCOUNT), primary_key=True),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
    )
    op.create_table(
        "notification_reads",
        sa.Column("account_id", sa.Integer, sa.ForeignKey(_ACCOUNT), primary_key=True),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    )
    op.create_index(
        "ix_log_rows_waits_for_review", "log_rows", ["scored_at", "result_id"],
        sqlite_where=sa.text(_WAITS), postgresql_where=sa.text(_WAITS),
    )  # fmt: skip
    op.create_index("ix_series_patient_id", "series", ["patient_id", "last_received_at"])


def _assignments() -> None:
    op.create_table(
        "review_assignments",
        sa.Column("assignment_id", sa.Integer, primary_key=True),
        sa.Column("series_instance_uid", sa.String(64), sa.ForeignKey("series.series_instance_uid"), nullable=False),
        sa.Column("account_id", sa.Integer, sa.ForeignKey(_ACCOUNT), nullable=False),
        sa.Column("assigned_at", UtcDateTime, nullable=False),
        sa.Column("waiting_since", UtcDateTime, nullable=False),
        sa.Column("assigned_by", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False, server_default=""),
        sa.Column("closed_at", UtcDateTime),
        sa.Column("outcome", sa.String(16), nullable=False, server_default=""),
        sa.Index(
            "ux_review_assignments_open", "series_instance_uid", unique=True,
            sqlite_where=sa.text(_OPEN), postgresql_where=sa.text(_OPEN),
        ),
        sa.Index("ix_review_assignments_account_id", "account_id", "closed_at", "waiting_since"),
        sa.Index(
            "ix_review_assignments_waiting", "waiting_since", "assignment_id",
            sqlite_where=sa.text(_OPEN), postgresql_where=sa.text(_OPEN),
        ),
    )  # fmt: skip


def drop() -> None:
    """Take back what ``create`` made, in reverse order."""
    op.drop_index("ix_series_patient_id", "series")
    op.drop_index("ix_log_rows_waits_for_review", "log_rows")
    for table in ("notification_reads", "notification_watermarks", "saved_filters", "review_assignments"):
        op.drop_table(table)
