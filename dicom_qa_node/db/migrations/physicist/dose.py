"""Tables of dose reports, irradiation events, the dose of series, and reference levels."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dicom_qa_node.db.engine import UtcDateTime

__all__ = ["create", "drop"]

_UID = sa.String(64)
_APPEND_ONLY = ("reference_levels", "reference_tolerances")
_TABLES = (
    "dose_studies",
    "dose_reports",
    "dose_events",
    "dose_series",
    "reference_levels",
    "reference_tolerances",
)


def create() -> None:
    """Create the tables and their indexes; reference levels and tolerances can only be added to."""
    _create_reports()
    _create_series()
    _create_levels()
    for statement in _triggers(op.get_context().dialect.name):
        op.execute(statement)


def drop() -> None:
    """Take back what ``create`` made, in reverse order."""
    for table in reversed(_TABLES):
        op.drop_table(table)
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION reference_levels_append_only()")


def _create_reports() -> None:
    op.create_table(
        "dose_studies",
        sa.Column("study_instance_uid", _UID, primary_key=True),
        sa.Column("linked_at", UtcDateTime, nullable=False),
    )
    op.create_table(
        "dose_reports",
        sa.Column("report_id", sa.Integer, primary_key=True),
        sa.Column("path", sa.Text, nullable=False, unique=True),
        sa.Column("sop_class_uid", _UID, nullable=False),
        sa.Column("sop_instance_uid", _UID, nullable=False),
        sa.Column("study_instance_uid", _UID, nullable=False),
        sa.Column("patient_id", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("received_at", UtcDateTime, nullable=False),
        sa.Column("calling_ae", sa.Text, nullable=False),
        sa.Column("content_at", sa.String(14), nullable=False),
        sa.Column("events", sa.Integer, nullable=False),
        sa.Column("dlp_total_mgy_cm", sa.Float),
        sa.Column("manufacturer", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("station", sa.Text, nullable=False),
        sa.Column("kept", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Index("ix_dose_reports_study_instance_uid", "study_instance_uid"),
        sa.Index("ix_dose_reports_received_at", "received_at"),
        sa.Index(
            "ix_dose_reports_kept", "received_at", "report_id",
            sqlite_where=sa.text("kept = true"), postgresql_where=sa.text("kept = true"),
        ),
    )  # fmt: skip
    op.create_table(
        "dose_events",
        sa.Column("event_id", sa.Integer, primary_key=True),
        sa.Column("study_instance_uid", _UID, nullable=False),
        sa.Column("event_key", sa.String(80), nullable=False),
        sa.Column("event_uid", _UID, nullable=False),
        sa.Column("report_id", sa.Integer, sa.ForeignKey("dose_reports.report_id"), nullable=False),
        sa.Column("ranked", sa.Text, nullable=False),
        sa.Column("patient_id", sa.Text, nullable=False),
        sa.Column("acquisition_type", sa.String(16), nullable=False),
        sa.Column("protocol", sa.Text, nullable=False),
        sa.Column("ctdi_vol_mgy", sa.Float),
        sa.Column("phantom_cm", sa.SmallInteger),
        sa.Column("dlp_mgy_cm", sa.Float),
        sa.Column("ssde_mgy", sa.Float),
        sa.Column("kv", sa.Text, nullable=False),
        sa.Column("remarks", sa.Text, nullable=False),
        sa.UniqueConstraint("study_instance_uid", "event_key"),
        sa.Index("ix_dose_events_report_id", "report_id"),
    )


def _create_series() -> None:
    op.create_table(
        "dose_series",
        sa.Column("series_instance_uid", _UID, sa.ForeignKey("series.series_instance_uid"), primary_key=True),
        sa.Column("study_instance_uid", _UID, nullable=False),
        sa.Column("patient_id", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("event_uids", sa.Text, nullable=False),
        sa.Column("protocol", sa.Text, nullable=False),
        sa.Column("ctdi_vol_mgy", sa.Float),
        sa.Column("ctdi_low_mgy", sa.Float),
        sa.Column("ctdi_high_mgy", sa.Float),
        sa.Column("phantom_cm", sa.SmallInteger),
        sa.Column("dlp_mgy_cm", sa.Float),
        sa.Column("ssde_mgy", sa.Float),
        sa.Column("water_equivalent_diameter_mm", sa.Float),
        sa.Column("acquired_from", sa.String(32), nullable=False),
        sa.Column("acquired_until", sa.String(32), nullable=False),
        sa.Column("head", sa.Boolean, nullable=False),
        sa.Column("event_id", sa.Integer, sa.ForeignKey("dose_events.event_id")),
        sa.Column("rule", sa.String(32), nullable=False, server_default=""),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Index("ix_dose_series_study_instance_uid", "study_instance_uid"),
        sa.Index("ix_dose_series_event_id", "event_id"),
    )


def _create_levels() -> None:
    op.create_table(
        "reference_levels",
        sa.Column("level_id", sa.Integer, primary_key=True),
        sa.Column("group_id", sa.Integer, sa.ForeignKey("chart_groups.group_id"), nullable=False),
        sa.Column("quantity", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("withdrawn", sa.Boolean, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.UniqueConstraint("group_id", "quantity", "revision"),
    )
    op.create_table(
        "reference_tolerances",
        sa.Column("tolerance_id", sa.Integer, primary_key=True),
        sa.Column("protocol", sa.Text, nullable=False),
        sa.Column("quantity", sa.Text, nullable=False),
        sa.Column("percent", sa.Float, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Index("ix_reference_tolerances_protocol", "protocol", "quantity", "tolerance_id"),
    )


def _triggers(dialect: str) -> list[str]:
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER {table}_no_{change} BEFORE {change} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            for table in _APPEND_ONLY
            for change in ("update", "delete")
        ]
    return [
        "CREATE FUNCTION reference_levels_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'this table is append-only'; END $$",
        *(
            f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION reference_levels_append_only()"
            for table in _APPEND_ONLY
        ),
    ]
