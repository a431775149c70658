"""Tables of the bridge to Orthanc (its place in a server's changes, its series), and of series that came again."""

from __future__ import annotations

import sqlalchemy as sa

from dicom_qa_node.db.engine import UtcDateTime
from dicom_qa_node.db.tables import metadata

__all__ = ["orthanc_series", "orthanc_servers", "repeated_series"]

orthanc_servers = sa.Table(
    "orthanc_servers",
    metadata,
    sa.Column("server", sa.String(64), primary_key=True),
    # The last change that was read: its number, and what it was about, by which a new database is noticed.
    sa.Column("last_change", sa.BigInteger, nullable=False),
    sa.Column("anchor", sa.String(100), nullable=False),
    sa.Column("started_at", sa.String(20), nullable=False),
    sa.Column("last_event", sa.BigInteger, nullable=False),
    sa.Column("holder", sa.Text, nullable=False, server_default=""),
    sa.Column("held_until", UtcDateTime),
)

orthanc_series = sa.Table(
    "orthanc_series",
    metadata,
    sa.Column("server", sa.String(64), primary_key=True),
    sa.Column("orthanc_id", sa.String(64), primary_key=True),
    sa.Column("series_instance_uid", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("images", sa.Integer, nullable=False),
    # SHA-256 of what Orthanc held when the series was last stable.
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

#: Series whose images came again unchanged, until their reports have been sent again.
repeated_series = sa.Table(
    "repeated_series",
    metadata,
    sa.Column("series_instance_uid", sa.String(64), primary_key=True),
    sa.Column("last_at", UtcDateTime, nullable=False),
    sa.Index("ix_repeated_series_last_at", "last_at"),
)
