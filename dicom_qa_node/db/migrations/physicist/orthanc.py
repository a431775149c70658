"""Tables and columns of the bridge to Orthanc."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dicom_qa_node.db.engine import UtcDateTime

__all__ = ["create", "drop"]


def create() -> None:
    """Create the tables, columns and indexes."""
    op.create_table(
        "orthanc_servers",
        sa.Column("server", sa.String(64), primary_key=True),
        sa.Column("last_change", sa.BigInteger, nullable=False),
        sa.Column("anchor", sa.String(100), nullable=False),
        sa.Column("started_at", sa.String(20), nullable=False),
        sa.Column("last_event", sa.BigInteger, nullable=False),
        sa.Column("holder", sa.Text, nullable=False, server_default=""),
        sa.Column("held_until", UtcDateTime),
    )
    op.create_table(
        "orthanc_series",
        sa.Column("server", sa.String(64), primary_key=True),
        sa.Column("orthanc_id", sa.String(64), primary_key=True),
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("images", sa.Integer, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False, server_default=""),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("due_at", UtcDateTime, nullable=False),
        sa.Column("since", UtcDateTime, nullable=False),
        sa.Column("report_uid", sa.String(64), nullable=False, server_default=""),
        sa.Column("problem", sa.Text, nullable=False, server_default=""),
        sa.Column("last_change", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("anchor", sa.String(100), nullable=False, server_default=""),
        sa.Index("ix_orthanc_series_state", "server", "state", "due_at"),
        sa.Index("ix_orthanc_series_uid", "series_instance_uid", "server"),
        sa.Index("ix_orthanc_series_change", "server", "last_change"),
    )
    op.create_table(
        "repeated_series",
        sa.Column("series_instance_uid", sa.String(64), primary_key=True),
        sa.Column("last_at", UtcDateTime, nullable=False),
        sa.Index("ix_repeated_series_last_at", "last_at"),
    )


def drop() -> None:
    """Take back what ``create`` made, in reverse order."""
    op.drop_table("repeated_series")
    op.drop_table("orthanc_series")
    op.drop_table("orthanc_servers")
