"""Tables of the alerts: what was noticed, and each message about it on its way through one channel."""

from __future__ import annotations

import sqlalchemy as sa

from dicom_qa_node.store.engine import UtcDateTime
from dicom_qa_node.store.tables import metadata

__all__ = ["alerts", "message_alerts", "messages"]

#: ``occasion`` names what the alert is about, once: the same occasion never alerts twice. ``trouble`` is set for
#: what lasts (a full disk) and ends with ``ended_at``.
alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("alert_id", sa.Integer, primary_key=True),
    sa.Column("occasion", sa.String(300), nullable=False, unique=True),
    sa.Column("trouble", sa.String(200)),
    sa.Column("rule", sa.Text, nullable=False),
    sa.Column("subject", sa.String(16), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("scanner", sa.Text, nullable=False),
    sa.Column("scanner_id", sa.Integer),
    sa.Column("series_instance_uid", sa.String(64)),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("acknowledged_at", UtcDateTime),
    sa.Column("acknowledged_by", sa.Text, nullable=False, server_default=""),
    sa.Column("note", sa.Text, nullable=False, server_default=""),
    sa.Index("ix_alerts_acknowledged_at", "acknowledged_at", "alert_id"),
    sa.Index("ix_alerts_trouble", "trouble", "ended_at"),
)

messages = sa.Table(
    "alert_messages",
    metadata,
    sa.Column("message_id", sa.Integer, primary_key=True),
    sa.Column("idempotency_key", sa.String(64), nullable=False, unique=True),
    sa.Column("channel", sa.String(64), nullable=False),
    sa.Column("test", sa.Boolean, nullable=False),
    sa.Column("urgent", sa.Boolean, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("not_before", UtcDateTime, nullable=False),
    sa.Column("lease_token", sa.Text),
    sa.Column("lease_until", UtcDateTime),
    sa.Column("last_answer", sa.Text, nullable=False, server_default=""),
    sa.Column("sent_at", UtcDateTime),
    sa.Index("ix_alert_messages_state", "state", "not_before"),
)

message_alerts = sa.Table(
    "alert_message_alerts",
    metadata,
    sa.Column("message_id", sa.Integer, sa.ForeignKey("alert_messages.message_id"), primary_key=True),
    sa.Column("alert_id", sa.Integer, sa.ForeignKey("alerts.alert_id"), primary_key=True),
)
