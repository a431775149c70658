"""Tables of dose reports, their irradiation events, the dose of each series, and reference levels."""

from __future__ import annotations

import sqlalchemy as sa

from dicom_qa_node.db.engine import UtcDateTime
from dicom_qa_node.db.tables import metadata

__all__ = [
    "KEPT_REPORTS",
    "dose_events",
    "dose_reports",
    "dose_series",
    "dose_studies",
    "reference_levels",
    "reference_tolerances",
]

_UID = sa.String(64)

KEPT_REPORTS = "kept = true"
"""The condition of ``ix_dose_reports_kept``: the file of the report is still in the spool."""

#: One row per study that a report or a series of has come, to be locked while the two are linked.
dose_studies = sa.Table(
    "dose_studies",
    metadata,
    sa.Column("study_instance_uid", _UID, primary_key=True),
    sa.Column("linked_at", UtcDateTime, nullable=False),
)

dose_reports = sa.Table(
    "dose_reports",
    metadata,
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
        sqlite_where=sa.text(KEPT_REPORTS), postgresql_where=sa.text(KEPT_REPORTS),
    ),
)  # fmt: skip

#: ``ranked`` orders what several reports say of one event: the greatest counts, whichever arrives first.
dose_events = sa.Table(
    "dose_events",
    metadata,
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

#: What the images of a series state, the node measured, and which event the series is linked to.
dose_series = sa.Table(
    "dose_series",
    metadata,
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

#: Append-only: a level is replaced by a row with the next ``revision`` and withdrawn by one with ``withdrawn``.
reference_levels = sa.Table(
    "reference_levels",
    metadata,
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

#: Append-only: the latest row of a protocol and quantity counts; the protocol "" stands for every other one.
reference_tolerances = sa.Table(
    "reference_tolerances",
    metadata,
    sa.Column("tolerance_id", sa.Integer, primary_key=True),
    sa.Column("protocol", sa.Text, nullable=False),
    sa.Column("quantity", sa.Text, nullable=False),
    sa.Column("percent", sa.Float, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Index("ix_reference_tolerances_protocol", "protocol", "quantity", "tolerance_id"),
)
