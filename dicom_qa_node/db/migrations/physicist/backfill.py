"""Tables of runs of the backfill, and of the monthly reports that went out."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dicom_qa_node.db.engine import UtcDateTime

__all__ = ["create", "drop"]


def create() -> None:
    """Create the tables, columns and indexes."""
    op.create_table(
        "backfill_runs",
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
        sa.Column("next_day", sa.Date, nullable=False),
        sa.Column("next_at", UtcDateTime, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("words", sa.Text, nullable=False, server_default=""),
        sa.Column("found", sa.Integer, nullable=False, server_default="0"),
        sa.Column("moved", sa.Integer, nullable=False, server_default="0"),
        sa.Column("scored", sa.Integer, nullable=False, server_default="0"),
        sa.Column("skipped", sa.Integer, nullable=False, server_default="0"),
        sa.Column("failed", sa.Integer, nullable=False, server_default="0"),
        sa.Column("lease_token", sa.Text),
        sa.Column("lease_until", UtcDateTime),
        sa.Index("ix_backfill_runs_state", "state", "run_id"),
    )
    op.create_table(
        "backfill_series",
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

    op.create_table(
        "monthly_reports",
        sa.Column("month", sa.String(7), primary_key=True),
        sa.Column("scanner", sa.String(200), primary_key=True),
        sa.Column("destination", sa.String(64), primary_key=True),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("not_before", UtcDateTime, nullable=False),
        sa.Column("done_at", UtcDateTime),
        sa.Column("words", sa.Text, nullable=False),
    )


def drop() -> None:
    """Take back what ``create`` made, in reverse order."""
    op.drop_table("monthly_reports")
    op.drop_table("backfill_series")
    op.drop_table("backfill_runs")
