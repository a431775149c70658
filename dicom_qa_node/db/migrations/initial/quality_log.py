"""Initial tables of the quality log and the reviews."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dicom_qa_node.db.engine import UtcDateTime

__all__ = ["create"]

_FACETS = (
    "site",
    "scanner",
    "model",
    "modality",
    "kind",
    "body_part",
    "protocol",
    "description",
    "study_description",
)
_SEARCHED = ("result_id", "facet_id", "grade", "severity", "findings", "delivery", "review", "latest")


def create() -> None:
    """Create the tables and their indexes."""
    op.create_table(
        "log_facets",
        sa.Column("facet_id", sa.Integer, primary_key=True),
        sa.Column("digest", sa.String(32), nullable=False, unique=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in _FACETS),
        sa.Column("words", sa.Text, nullable=False),
        sa.Column("rows", sa.Integer, nullable=False, server_default="0"),
    )
    op.create_table(
        "log_findings",
        sa.Column("bit", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("key", sa.Text, nullable=False, unique=True),
    )
    op.create_table(
        "log_rows",
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
        sa.Column("grade_low", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("decided_by", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("ct_score", sa.Float),
        sa.Column("pet_score", sa.Float),
        sa.Column("display_score", sa.Float),
        sa.Column("severity", sa.SmallInteger, nullable=False),
        sa.Column("findings", sa.BigInteger, nullable=False),
        sa.Column("deviation", sa.Float),
        sa.Column("worst_slice", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("delivery", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("review", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Index("ix_log_rows_scored_at", "scored_at", *_SEARCHED),
        sa.Index("ix_log_rows_score", "score", *_SEARCHED, "scored_at"),
        sa.Index("ix_log_rows_deviation", "deviation", *_SEARCHED, "scored_at", "score"),
        sa.Index("ix_log_rows_facet_id", "facet_id", "scored_at"),
        *(sa.Index(f"ix_log_rows_{name}", name) for name in ("grade", "severity", "delivery", "review")),
        sa.Index("ix_log_rows_series_instance_uid", "series_instance_uid", "version"),
    )
    op.create_table(
        "log_found",
        sa.Column("bit", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("result_id", sa.Integer, primary_key=True, autoincrement=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "reviews",
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
