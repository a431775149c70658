"""The tables of the log page: one narrow row per scored version for searching, and people's reviews.

``log_rows`` holds what the page filters and sorts by as small numbers, so that one covering index per order answers
every combination of filters. ``log_facets`` holds each combination of scanner and protocol once, in words.
``log_found`` lists the rows of each finding, and small indexes those of each grade and mark: where one of them is
rare, a question starts there.
"""

from __future__ import annotations

from enum import IntEnum

import sqlalchemy as sa

from dicom_qa_node.db.engine import UtcDateTime
from dicom_qa_node.db.tables import metadata
from dicom_qa_node.domain.results import Grade, RatedPartKind, Severity

__all__ = [
    "FACET_COLUMNS",
    "GRADE_CODES",
    "PART_CODES",
    "SEVERITY_CODES",
    "DeliveryMark",
    "ReviewMark",
    "log_facets",
    "log_findings",
    "log_found",
    "log_rows",
    "reviews",
]


class DeliveryMark(IntEnum):
    """What became of a version's report; the worst of its targets counts."""

    NONE = 0
    WAITING = 1
    DELIVERED = 2
    PARKED = 3


class ReviewMark(IntEnum):
    """What the reviewers of a version say; the last word of each counts."""

    NONE = 0
    AGREED = 1
    DISAGREED = 2
    DIVIDED = 3


GRADE_CODES: dict[Grade | None, int] = {None: 0, Grade.DIAGNOSTIC: 1, Grade.LIMITED: 2, Grade.NON_DIAGNOSTIC: 3}
PART_CODES: dict[RatedPartKind | None, int] = {
    None: 0, RatedPartKind.CT: 1, RatedPartKind.PET: 2, RatedPartKind.DISPLAY: 3
}  # fmt: skip
SEVERITY_CODES: dict[Severity | None, int] = {None: 0, Severity.INFO: 1, Severity.WARNING: 2, Severity.ERROR: 3}

FACET_COLUMNS = (
    "site", "scanner", "model", "modality", "kind", "body_part", "protocol", "description", "study_description",
)  # fmt: skip
"""Words that series share: institution, scanner's name in the log, its model, and what was scanned."""

log_facets = sa.Table(
    "log_facets",
    metadata,
    sa.Column("facet_id", sa.Integer, primary_key=True),
    sa.Column("digest", sa.String(32), nullable=False, unique=True),
    *(sa.Column(name, sa.Text, nullable=False) for name in FACET_COLUMNS),
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False, server_default="0"),
    # Set by the charts: the device, and the names that people gave it and its protocol.
    sa.Column("scanner_id", sa.Integer),
    sa.Column("shown_scanner", sa.Text),
    sa.Column("shown_protocol", sa.Text),
)

log_findings = sa.Table(
    "log_findings",
    metadata,
    sa.Column("bit", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("key", sa.Text, nullable=False, unique=True),
)

_SEARCHED = (
    "result_id", "facet_id", "grade", "severity", "findings", "delivery", "review", "latest",
)  # fmt: skip

log_rows = sa.Table(
    "log_rows",
    metadata,
    sa.Column("result_id", sa.Integer, sa.ForeignKey("results.result_id"), primary_key=True, autoincrement=False),
    sa.Column("series_instance_uid", sa.String(64), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("latest", sa.SmallInteger, nullable=False),
    sa.Column("scored_at", UtcDateTime, nullable=False),
    sa.Column("facet_id", sa.Integer, sa.ForeignKey("log_facets.facet_id"), nullable=False),
    sa.Column("score", sa.Float),
    sa.Column("low", sa.Float),
    sa.Column("high", sa.Float),
    sa.Column("grade", sa.SmallInteger, nullable=False),
    # The worst grade that the interval reaches where it straddles a limit, else 0.
    sa.Column("grade_low", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("decided_by", sa.SmallInteger, nullable=False, server_default="0"),
    *(sa.Column(f"{kind.value}_score", sa.Float) for kind in RatedPartKind),
    sa.Column("severity", sa.SmallInteger, nullable=False),
    sa.Column("findings", sa.BigInteger, nullable=False),
    sa.Column("deviation", sa.Float),
    sa.Column("worst_slice", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("delivery", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("review", sa.SmallInteger, nullable=False, server_default="0"),
    # The day at the scanner, so that a month of examinations is a range.
    sa.Column("acquired_on", sa.Date),
    # A code of `phantom_tables.QcMark`; empty for patients.
    sa.Column("qc", sa.SmallInteger),
    sa.Index("ix_log_rows_scored_at", "scored_at", *_SEARCHED),
    sa.Index("ix_log_rows_score", "score", *_SEARCHED, "scored_at"),
    sa.Index("ix_log_rows_deviation", "deviation", *_SEARCHED, "scored_at", "score"),
    sa.Index("ix_log_rows_acquired_on", "acquired_on", *_SEARCHED, "scored_at"),
    sa.Index("ix_log_rows_facet_id", "facet_id", "scored_at"),
    *(sa.Index(f"ix_log_rows_{name}", name) for name in ("grade", "severity", "delivery", "review")),
    sa.Index("ix_log_rows_series_instance_uid", "series_instance_uid", "version"),
)

log_found = sa.Table(
    "log_found",
    metadata,
    sa.Column("bit", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("result_id", sa.Integer, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

reviews = sa.Table(
    "reviews",
    metadata,
    sa.Column("review_id", sa.Integer, primary_key=True),
    sa.Column("series_instance_uid", sa.String(64), sa.ForeignKey("series.series_instance_uid"), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("reviewer", sa.Text, nullable=False),
    sa.Column("agrees", sa.Boolean, nullable=False),
    sa.Column("score", sa.Float),
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
    sa.Column("comment", sa.Text, nullable=False, server_default=""),
    sa.Index("ix_reviews_series_instance_uid", "series_instance_uid", "version", "review_id"),
    sa.Index("ix_reviews_at", "at"),
)
