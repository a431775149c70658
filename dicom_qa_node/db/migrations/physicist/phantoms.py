"""Tables and columns of phantom quality control."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dicom_qa_node.db.engine import UtcDateTime

__all__ = ["create", "drop"]

_TABLES = ("phantom_schedules", "phantom_values", "phantom_runs", "phantom_tolerances", "subject_decisions")


def create() -> None:
    """Create the tables, columns and indexes."""
    op.create_table(
        "subject_decisions",
        sa.Column("decision_id", sa.Integer, primary_key=True),
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("phantom", sa.Boolean, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Index("ix_subject_decisions_series_instance_uid", "series_instance_uid", "decision_id"),
    )
    op.create_table(
        "phantom_tolerances",
        sa.Column("tolerance_id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("quantity", sa.String(64), nullable=False),
        sa.Column("scanner", sa.Text, nullable=False),
        sa.Column("low", sa.Float),
        sa.Column("high", sa.Float),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("dated", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Index("ix_phantom_tolerances_kind", "kind", "quantity", "scanner", "tolerance_id"),
    )
    op.create_table(
        "phantom_runs",
        sa.Column("result_id", sa.Integer, sa.ForeignKey("results.result_id"), primary_key=True, autoincrement=False),
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("latest", sa.Boolean, nullable=False),
        sa.Column("scanner_id", sa.Integer, sa.ForeignKey("scanners.scanner_id"), nullable=False),
        sa.Column("phantom", sa.Text, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("protocol", sa.Text, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("remark", sa.Text, nullable=False),
        sa.Index("ix_phantom_runs_series_instance_uid", "series_instance_uid"),
        sa.Index("ix_phantom_runs_day", "day", "result_id"),
        sa.Index("ix_phantom_runs_phantom", "phantom", "day", "outcome"),
        sa.Index("ix_phantom_runs_scanner_id", "scanner_id", "phantom", "at"),
    )
    op.create_table(
        "phantom_values",
        sa.Column(
            "result_id", sa.Integer, sa.ForeignKey("phantom_runs.result_id"), primary_key=True, autoincrement=False
        ),
        sa.Column("quantity", sa.String(64), primary_key=True),
        sa.Column("meaning", sa.Text, nullable=False),
        sa.Column("unit", sa.Text, nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("low", sa.Float),
        sa.Column("high", sa.Float),
    )
    op.create_table(
        "phantom_schedules",
        sa.Column("phantom", sa.String(64), primary_key=True),
        sa.Column("schedule", sa.String(16), primary_key=True),
        sa.Column("first_day", sa.Date, nullable=False),
    )
    op.add_column("log_rows", sa.Column("qc", sa.SmallInteger))


def drop() -> None:
    """Take back what ``create`` made, in reverse order."""
    op.drop_column("log_rows", "qc")
    for table in _TABLES:
        op.drop_table(table)
