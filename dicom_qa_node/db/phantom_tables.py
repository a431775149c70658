"""Tables of QC phantoms: who decided what a series shows, tolerances, runs with their values, and schedules.

``phantom_runs`` and ``phantom_values`` are derived from ``results``, as the points of the control charts are.
"""

from __future__ import annotations

from enum import IntEnum

import sqlalchemy as sa

from dicom_qa_node.db.engine import UtcDateTime
from dicom_qa_node.db.tables import metadata
from dicom_qa_node.domain.qc_phantoms import QcOutcome

__all__ = ["OUTCOME_CODES", "QcMark", "decisions", "runs", "schedules", "tolerances", "values"]


class QcMark(IntEnum):
    """What a row of the log says of a QC phantom; NONE: the series shows a patient."""

    NONE = 0
    PASSED = 1
    OUTSIDE = 2
    NOT_JUDGED = 3
    NOT_ANALYSED = 4

    @property
    def outcome(self) -> QcOutcome | None:
        """The outcome of the analysis, None for a patient."""
        return next((outcome for outcome, mark in OUTCOME_CODES.items() if mark is self), None)


OUTCOME_CODES = {
    QcOutcome.PASSED: QcMark.PASSED,
    QcOutcome.OUTSIDE: QcMark.OUTSIDE,
    QcOutcome.NOT_JUDGED: QcMark.NOT_JUDGED,
    QcOutcome.NOT_ANALYSED: QcMark.NOT_ANALYSED,
}

decisions = sa.Table(
    "subject_decisions",
    metadata,
    sa.Column("decision_id", sa.Integer, primary_key=True),
    sa.Column("series_instance_uid", sa.String(64), nullable=False),
    sa.Column("phantom", sa.Boolean, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Index("ix_subject_decisions_series_instance_uid", "series_instance_uid", "decision_id"),
)

tolerances = sa.Table(
    "phantom_tolerances",
    metadata,
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

runs = sa.Table(
    "phantom_runs",
    metadata,
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

values = sa.Table(
    "phantom_values",
    metadata,
    sa.Column("result_id", sa.Integer, sa.ForeignKey("phantom_runs.result_id"), primary_key=True, autoincrement=False),
    sa.Column("quantity", sa.String(64), primary_key=True),
    sa.Column("meaning", sa.Text, nullable=False),
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("value", sa.Float, nullable=False),
    sa.Column("low", sa.Float),
    sa.Column("high", sa.Float),
)

#: When the node first saw a phantom with a schedule: nothing is missed before that day.
schedules = sa.Table(
    "phantom_schedules",
    metadata,
    sa.Column("phantom", sa.String(64), primary_key=True),
    sa.Column("schedule", sa.String(16), primary_key=True),
    sa.Column("first_day", sa.Date, nullable=False),
)
