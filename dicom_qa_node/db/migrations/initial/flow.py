"""Initial tables of the flow: series, instances, jobs, results, reports, deliveries, commitments."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dicom_qa_node.db.engine import UtcDateTime

__all__ = ["create"]

_UID = sa.String(64)
_HEADER = (
    "study_instance_uid",
    "modality",
    "frame_of_reference_uid",
    "patient_id",
    "patient_name",
    "patient_birth_date",
    "patient_sex",
    "accession_number",
    "study_id",
    "study_date",
    "study_time",
    "study_description",
    "series_number",
    "series_description",
    "body_part_examined",
    "protocol_name",
    "manufacturer",
    "manufacturer_model_name",
    "station_name",
    "device_serial_number",
    "institution_name",
)
_UNDELIVERED = "state <> 'DELIVERED'"
_KEPT = "kept > 0"
_PICTURED = "pictures > 0"
_UNINDEXED = "unindexed = true"


#: Created after all others: of two indexes that serve a query alike SQLite takes the later one. Each holds the few rows
#: of a large table that are not done: series with images, rendered images, reports to index, deliveries.
_PARTIAL = (
    ("ix_series_kept", "series", ["state", "state_since"], _KEPT),
    ("ix_results_pictures", "results", ["scored_at"], _PICTURED),
    ("ix_reports_unindexed", "reports", ["sop_instance_uid"], _UNINDEXED),
    ("ix_outbox_undelivered", "outbox", ["target", "state", "created_at"], _UNDELIVERED),
)


def create() -> None:
    """Create the tables and their indexes."""
    op.create_table(
        "series",
        sa.Column("series_instance_uid", _UID, primary_key=True),
        *(sa.Column(name, sa.Text, nullable=False, server_default="") for name in _HEADER),
        sa.Column("calling_ae", sa.Text, nullable=False, server_default=""),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("state_since", UtcDateTime, nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("received", sa.Integer, nullable=False, server_default="0"),
        sa.Column("forgotten", sa.Integer, nullable=False, server_default="0"),
        sa.Column("expected", sa.JSON, nullable=False),
        sa.Column("first_received_at", UtcDateTime, nullable=False),
        sa.Column("last_received_at", UtcDateTime, nullable=False),
        sa.Column("pair_series_uid", _UID),
        sa.Column("complete_reason", sa.Text, nullable=False, server_default=""),
        sa.Column("parked_reason", sa.Text, nullable=False, server_default=""),
        sa.Column("conflicts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("site", sa.Text, nullable=False, server_default="default"),
        sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
        # Its rows in ``instances``, conflicting ones too.
        sa.Column("kept", sa.Integer, nullable=False, server_default="0"),
        sa.Index("ix_series_state", "state", "state_since"),
        sa.Index("ix_series_study_instance_uid", "study_instance_uid"),
        sa.Index("ix_series_last_received_at", "last_received_at"),
        sa.Index("ix_series_state_last_received_at", "state", "last_received_at"),
    )
    op.create_table(
        "open_conflicts",
        sa.Column("series_instance_uid", _UID, sa.ForeignKey("series.series_instance_uid"), primary_key=True),
        sa.Column("images", sa.Integer, nullable=False),
    )
    op.create_table(
        "state_counts",
        sa.Column("counted", sa.String(16), primary_key=True),
        sa.Column("state", sa.String(16), primary_key=True),
        sa.Column("entry", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "instances",
        sa.Column("instance_id", sa.Integer, primary_key=True),
        sa.Column("series_instance_uid", _UID, sa.ForeignKey("series.series_instance_uid"), nullable=False),
        sa.Column("sop_instance_uid", _UID, nullable=False),
        sa.Column("sop_class_uid", _UID, nullable=False),
        sa.Column("transfer_syntax_uid", _UID, nullable=False),
        sa.Column("path", sa.Text, nullable=False, unique=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("received_at", UtcDateTime, nullable=False),
        sa.Column("calling_ae", sa.Text, nullable=False),
        sa.Column("association_id", sa.Text, nullable=False),
        sa.Column("instance_number", sa.Integer),
        sa.Column("number_of_frames", sa.Integer, nullable=False),
        sa.Column("expected", sa.Integer),
        sa.Column("expected_group", sa.Text, nullable=False),
        sa.Column("conflict", sa.Boolean, nullable=False),
        sa.Column("differs", sa.Text, nullable=False, server_default=""),
        sa.Index("ix_instances_series_instance_uid", "series_instance_uid"),
        sa.Index("ix_instances_sop_instance_uid", "sop_instance_uid"),
    )
    op.create_table(
        "associations",
        sa.Column("association_id", sa.Text, primary_key=True),
        sa.Column("calling_ae", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("receiver", sa.Text, nullable=False),
        sa.Column("opened_at", UtcDateTime, nullable=False),
        sa.Column("closed_at", UtcDateTime),
        sa.Column("aborted", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Index("ix_associations_closed_at", "closed_at"),
    )
    op.create_table(
        "series_associations",
        sa.Column("series_instance_uid", _UID, primary_key=True),
        sa.Column("association_id", sa.Text, primary_key=True),
        sa.Index("ix_series_associations_association_id", "association_id"),
    )
    op.create_table(
        "quarantine",
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("calling_ae", sa.Text, nullable=False),
        sa.Column("sop_instance_uid", sa.Text, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Index("ix_quarantine_at", "at"),
    )
    op.create_table(
        "refused_callers",
        sa.Column("host", sa.String(64), primary_key=True),
        sa.Column("calling_ae", sa.String(16), primary_key=True),
        sa.Column("reason", sa.String(200), primary_key=True),
        sa.Column("called_ae", sa.String(16), nullable=False),
        sa.Column("first_at", UtcDateTime, nullable=False),
        sa.Column("last_at", UtcDateTime, nullable=False),
        sa.Column("times", sa.Integer, nullable=False),
        sa.Index("ix_refused_callers_last_at", "last_at"),
    )
    op.create_table(
        "jobs",
        sa.Column("job_id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("series_instance_uid", _UID, sa.ForeignKey("series.series_instance_uid"), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("available_at", UtcDateTime, nullable=False),
        sa.Column("lease_owner", sa.Text),
        sa.Column("lease_token", sa.Text),
        sa.Column("lease_until", UtcDateTime),
        sa.Column("last_error", sa.Text, nullable=False, server_default=""),
        sa.Column("site", sa.Text, nullable=False, server_default="default"),
        # Minus the priority of the series, so that one index in rising order gives the next job.
        sa.Column("rank", sa.Integer, nullable=False, server_default="0"),
        sa.UniqueConstraint("kind", "series_instance_uid", "version"),
        sa.Index("ix_jobs_state", "state", "available_at"),
        sa.Index("ix_jobs_due", "state", "rank", "available_at", "job_id"),
    )
    op.create_table(
        "results",
        sa.Column("result_id", sa.Integer, primary_key=True),
        sa.Column("series_instance_uid", _UID, sa.ForeignKey("series.series_instance_uid"), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("scored_at", UtcDateTime, nullable=False),
        sa.Column("modality", sa.String(16), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("score", sa.Float),
        sa.Column("grade", sa.String(16)),
        sa.Column("scanner", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("model_sha256", sa.String(64), nullable=False),
        sa.Column("why", sa.Text, nullable=False, server_default=""),
        sa.Column("payload", sa.Text, nullable=False),
        # 0 once retention has removed the pictures of this version.
        sa.Column("pictures", sa.SmallInteger, nullable=False, server_default="1"),
        sa.UniqueConstraint("series_instance_uid", "version"),
        sa.Index("ix_results_scored_at", "scored_at"),
        sa.Index("ix_results_scanner", "scanner", "scored_at"),
        sa.Index("ix_results_grade", "grade", "scored_at"),
    )
    op.create_table(
        "reports",
        sa.Column("sop_instance_uid", _UID, primary_key=True),
        sa.Column("sop_class_uid", _UID, nullable=False),
        sa.Column("report_series_uid", _UID, nullable=False),
        sa.Column("series_instance_uid", _UID, sa.ForeignKey("series.series_instance_uid"), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("path", sa.Text, nullable=False, unique=True),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("predecessor_uid", _UID),
        sa.Column("kind", sa.String(16), nullable=False, server_default="report"),
        # Its header is still to be read into ``report_headers``; rows from before this column have theirs.
        sa.Column("unindexed", sa.Boolean, nullable=False, default=True, server_default=sa.false()),
        sa.UniqueConstraint("series_instance_uid", "version", "kind"),
    )
    op.create_table(
        "report_headers",
        sa.Column("sop_instance_uid", _UID, sa.ForeignKey("reports.sop_instance_uid"), primary_key=True),
        sa.Column("layout", sa.Integer, nullable=False),
        sa.Column("patient_id", sa.Text, nullable=False),
        sa.Column("study_instance_uid", _UID, nullable=False),
        sa.Column("series_instance_uid", _UID, nullable=False),
        sa.Column("accession_number", sa.Text, nullable=False),
        sa.Column("study_date", sa.Text, nullable=False),
        sa.Column("transfer_syntax_uid", _UID, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.Column("header", sa.Text, nullable=False),
        sa.Index("ix_report_headers_patient_id", "patient_id"),
        sa.Index("ix_report_headers_study_instance_uid", "study_instance_uid"),
        sa.Index("ix_report_headers_series_instance_uid", "series_instance_uid"),
        sa.Index("ix_report_headers_study_date", "study_date"),
        sa.Index("ix_report_headers_layout", "layout", "sop_instance_uid"),
    )
    op.create_table(
        "outbox",
        sa.Column("delivery_id", sa.Integer, primary_key=True),
        sa.Column("report_uid", _UID, sa.ForeignKey("reports.sop_instance_uid"), nullable=False),
        sa.Column("series_instance_uid", _UID, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("next_attempt_at", UtcDateTime, nullable=False),
        sa.Column("lease_token", sa.Text),
        sa.Column("lease_until", UtcDateTime),
        sa.Column("last_answer", sa.Text, nullable=False, server_default=""),
        sa.Column("delivered_at", UtcDateTime),
        sa.Column("study_instance_uid", _UID, nullable=False, server_default=""),
        sa.Column("sender_ae", sa.Text, nullable=False, server_default=""),
        sa.Column("sender_host", sa.Text, nullable=False, server_default=""),
        sa.Column("sent_uid", _UID, nullable=False, server_default=""),
        sa.Column("kind", sa.String(16), nullable=False, server_default="report"),
        sa.UniqueConstraint("report_uid", "target"),
        sa.Index("ix_outbox_state", "state", "next_attempt_at"),
        sa.Index("ix_outbox_series_instance_uid", "series_instance_uid", "target"),
        sa.Index("ix_outbox_study_instance_uid", "study_instance_uid", "target"),
        sa.Index("ix_outbox_target", "target", "state", "next_attempt_at"),
        sa.Index("ix_outbox_target_delivery_id", "target", "delivery_id"),
    )
    op.create_table(
        "unrouted",
        sa.Column("report_uid", _UID, sa.ForeignKey("reports.sop_instance_uid"), primary_key=True),
        sa.Column("target", sa.Text, primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "commit_requests",
        sa.Column("transaction_uid", _UID, primary_key=True),
        sa.Column("report_uid", _UID, sa.ForeignKey("reports.sop_instance_uid"), nullable=False),
        sa.Column("sop_instance_uid", _UID, nullable=False, server_default=""),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("requested_at", UtcDateTime, nullable=False),
        sa.Column("answered_at", UtcDateTime),
        sa.Column("failure_reason", sa.Integer),
        sa.Index("ix_commit_requests_report_uid", "report_uid", "target"),
    )
    op.create_table(
        "commit_replies",
        sa.Column("transaction_uid", _UID, primary_key=True),
        sa.Column("calling_ae", sa.Text, primary_key=True),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("items", sa.JSON, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("next_attempt_at", UtcDateTime, nullable=False),
        sa.Column("finished_at", UtcDateTime),
        sa.Column("last_answer", sa.Text, nullable=False, server_default=""),
        sa.Index("ix_commit_replies_next_attempt_at", "finished_at", "next_attempt_at"),
    )
    op.create_table(
        "heartbeats",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started_at", UtcDateTime, nullable=False),
        sa.Column("seen_at", UtcDateTime, nullable=False),
        sa.Column("detail", sa.Text, nullable=False, server_default=""),
    )
    op.create_table(
        "events",
        sa.Column("event_id", sa.Integer, primary_key=True),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("series_instance_uid", _UID, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("old_state", sa.String(16), nullable=False),
        sa.Column("new_state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Index("ix_events_series_instance_uid", "series_instance_uid"),
    )
    op.create_table(
        "heat_requests",
        sa.Column("series_instance_uid", sa.String(64), sa.ForeignKey("series.series_instance_uid"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("asked_at", UtcDateTime, nullable=False),
        sa.Column("asked_by", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("lease_token", sa.Text),
        sa.Column("lease_until", UtcDateTime),
        sa.Column("ended_at", UtcDateTime),
        sa.Column("problem", sa.Text, nullable=False, server_default=""),
        sa.Index("ix_heat_requests_ended_at", "ended_at", "asked_at"),
    )
    for name, table, columns, condition in _PARTIAL:
        op.create_index(name, table, columns, sqlite_where=sa.text(condition), postgresql_where=sa.text(condition))
