"""Tables of the backfill, its runs and every series that a run has found, and of the monthly reports that went out."""

from __future__ import annotations

import sqlalchemy as sa

from dicom_qa_node.db.engine import UtcDateTime
from dicom_qa_node.db.tables import metadata

__all__ = ["backfill_runs", "backfill_series", "monthly_reports"]

#: Counted in the transaction that changes a series, so that progress is one row to read.
backfill_runs = sa.Table(
    "backfill_runs",
    metadata,
    sa.Column("run_id", sa.Integer, primary_key=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("first_day", sa.Date, nullable=False),
    sa.Column("last_day", sa.Date, nullable=False),
    sa.Column("scanner", sa.Text, nullable=False, server_default=""),
    sa.Column("modalities", sa.Text, nullable=False),
    sa.Column("rate_per_hour", sa.Float, nullable=False),
    sa.Column("deliver", sa.Boolean, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    # The next day to be searched; behind ``last_day`` when all are.
    sa.Column("next_day", sa.Date, nullable=False),
    sa.Column("next_at", UtcDateTime, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("words", sa.Text, nullable=False, server_default=""),
    *(
        sa.Column(name, sa.Integer, nullable=False, server_default="0")
        for name in ("found", "moved", "scored", "skipped", "failed")
    ),
    sa.Column("lease_token", sa.Text),
    sa.Column("lease_until", UtcDateTime),
    sa.Index("ix_backfill_runs_state", "state", "run_id"),
)

backfill_series = sa.Table(
    "backfill_series",
    metadata,
    sa.Column("entry_id", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.Integer, sa.ForeignKey("backfill_runs.run_id"), nullable=False),
    sa.Column("series_instance_uid", sa.String(64), nullable=False),
    sa.Column("study_instance_uid", sa.String(64), nullable=False),
    sa.Column("study_date", sa.Date),
    sa.Column("modality", sa.String(16), nullable=False),
    sa.Column("images", sa.Integer),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("words", sa.Text, nullable=False, server_default=""),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("run_id", "series_instance_uid"),
    sa.Index("ix_backfill_series_state", "run_id", "state", "attempts", "entry_id"),
    sa.Index("ix_backfill_series_series_instance_uid", "series_instance_uid", "state"),
)

monthly_reports = sa.Table(
    "monthly_reports",
    metadata,
    sa.Column("month", sa.String(7), primary_key=True),
    sa.Column("scanner", sa.String(200), primary_key=True),
    sa.Column("destination", sa.String(64), primary_key=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("not_before", UtcDateTime, nullable=False),
    sa.Column("done_at", UtcDateTime),
    sa.Column("words", sa.Text, nullable=False),
)
