"""The tables of the review queue, of saved filters, and of what each account has read of its notifications."""

from __future__ import annotations

import sqlalchemy as sa

from dicom_qa_node.db.engine import UtcDateTime
from dicom_qa_node.db.log_tables import log_rows
from dicom_qa_node.db.tables import metadata, series

__all__ = ["OPEN", "WAITS_FOR_REVIEW", "notification_reads", "notification_watermarks", "review_assignments",
           "saved_filters"]  # fmt: skip

#: Without an assignment these wait for a reviewer: not diagnostic, or limited with a warning; nobody has reviewed them.
#: The text is the condition of a partial index; a query must repeat it word for word, or SQLite leaves the index aside.
#: The sums keep SQLite from the indexes of grade and review, which would read every series that nobody has reviewed.
WAITS_FOR_REVIEW = "latest = 1 AND review + 0 = 0 AND (grade + 0 = 3 OR (grade + 0 = 2 AND severity >= 2))"
#: An assignment that is neither answered nor withdrawn.
OPEN = "closed_at IS NULL"

_ACCOUNT = "accounts.account_id"

review_assignments = sa.Table(
    "review_assignments",
    metadata,
    sa.Column("assignment_id", sa.Integer, primary_key=True),
    sa.Column("series_instance_uid", sa.String(64), sa.ForeignKey("series.series_instance_uid"), nullable=False),
    sa.Column("account_id", sa.Integer, sa.ForeignKey(_ACCOUNT), nullable=False),
    sa.Column("assigned_at", UtcDateTime, nullable=False),
    # When the series began to wait for anybody's review: to hand it on does not move it back in the queue.
    sa.Column("waiting_since", UtcDateTime, nullable=False),
    sa.Column("assigned_by", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False, server_default=""),
    sa.Column("closed_at", UtcDateTime),
    # "reviewed", "reassigned" or "withdrawn"; empty while it is open.
    sa.Column("outcome", sa.String(16), nullable=False, server_default=""),
    # One person at a time is asked about a series.
    sa.Index(
        "ux_review_assignments_open", "series_instance_uid", unique=True,
        sqlite_where=sa.text(OPEN), postgresql_where=sa.text(OPEN),
    ),
    sa.Index("ix_review_assignments_account_id", "account_id", "closed_at", "waiting_since"),
    sa.Index(
        "ix_review_assignments_waiting", "waiting_since", "assignment_id",
        sqlite_where=sa.text(OPEN), postgresql_where=sa.text(OPEN),
    ),
)  # fmt: skip

saved_filters = sa.Table(
    "saved_filters",
    metadata,
    sa.Column("filter_id", sa.Integer, primary_key=True),
    sa.Column("account_id", sa.Integer, sa.ForeignKey(_ACCOUNT), nullable=False),
    sa.Column("name", sa.String(60), nullable=False),
    sa.Column("query", sa.Text, nullable=False),
    sa.Column("shared", sa.Boolean, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Index("ix_saved_filters_account_id", "account_id", "name", unique=True),
    sa.Index("ix_saved_filters_shared", "shared", "name"),
)

#: Up to which number an account has read everything of one kind of notification.
notification_watermarks = sa.Table(
    "notification_watermarks",
    metadata,
    sa.Column("account_id", sa.Integer, sa.ForeignKey(_ACCOUNT), primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
)

#: What an account has read one by one above its watermark.
notification_reads = sa.Table(
    "notification_reads",
    metadata,
    sa.Column("account_id", sa.Integer, sa.ForeignKey(_ACCOUNT), primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
)

sa.Index(
    "ix_log_rows_waits_for_review", log_rows.c.scored_at, log_rows.c.result_id,
    sqlite_where=sa.text(WAITS_FOR_REVIEW), postgresql_where=sa.text(WAITS_FOR_REVIEW),
)  # fmt: skip
sa.Index("ix_series_patient_id", series.c.patient_id, series.c.last_received_at)
