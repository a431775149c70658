"""Initial tables of scanners, control charts, alerts and counters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dicom_qa_node.db.engine import UtcDateTime

__all__ = ["create"]


def create() -> None:
    """Create the tables and their indexes."""
    op.create_table(
        "scanners",
        sa.Column("scanner_id", sa.Integer, primary_key=True),
        sa.Column("key", sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("manufacturer", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("station", sa.Text, nullable=False),
        sa.Column("serial", sa.Text, nullable=False),
        sa.Column("institution", sa.Text, nullable=False),
        sa.Column("first_at", UtcDateTime, nullable=False),
        sa.Column("last_at", UtcDateTime, nullable=False),
    )
    op.create_table(
        "chart_groups",
        sa.Column("group_id", sa.Integer, primary_key=True),
        sa.Column("scanner_id", sa.Integer, sa.ForeignKey("scanners.scanner_id"), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("protocol", sa.Text, nullable=False),
        sa.Column("network", sa.Text, nullable=False),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("last_at", UtcDateTime, nullable=False),
        sa.Column("last_score", sa.Float),
        sa.Column("judged", sa.Boolean, nullable=False),
        sa.UniqueConstraint("scanner_id", "kind", "protocol"),
        sa.Index("ix_chart_groups_kind", "kind", "protocol"),
    )
    op.create_table(
        "chart_quantities",
        sa.Column("quantity_id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("meaning", sa.Text, nullable=False),
        sa.Column("unit", sa.Text, nullable=False),
        sa.Column("direction", sa.Text, nullable=False),
    )
    op.create_table(
        "chart_points",
        sa.Column("result_id", sa.Integer, sa.ForeignKey("results.result_id"), primary_key=True),
        sa.Column("group_id", sa.Integer, sa.ForeignKey("chart_groups.group_id")),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("score", sa.Float),
        sa.Column("measured", sa.LargeBinary, nullable=False),
        sa.Index("ix_chart_points_group_id", "group_id", "at", "result_id"),
    )
    op.create_table(
        "chart_weeks",
        sa.Column("group_id", sa.Integer, sa.ForeignKey("chart_groups.group_id"), primary_key=True),
        sa.Column("quantity_id", sa.Integer, primary_key=True),
        sa.Column("monday", sa.Date, primary_key=True),
        sa.Column("total", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Float, nullable=False) for name in ("p5", "q1", "median", "q3", "p95", "mean")),
    )
    op.create_table(
        "chart_stale_weeks",
        sa.Column("group_id", sa.Integer, sa.ForeignKey("chart_groups.group_id"), primary_key=True),
        sa.Column("monday", sa.Date, primary_key=True),
    )
    op.create_table(
        "chart_baselines",
        sa.Column("baseline_id", sa.Integer, primary_key=True),
        sa.Column("group_id", sa.Integer, sa.ForeignKey("chart_groups.group_id"), nullable=False),
        sa.Column("quantity", sa.Text, nullable=False),
        sa.Column("first_day", sa.Date),
        sa.Column("last_day", sa.Date),
        sa.Column("centre", sa.Float),
        sa.Column("sigma", sa.Float),
        sa.Column("total", sa.Integer),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Index("ix_chart_baselines_group_id", "group_id", "quantity", "baseline_id"),
    )
    op.create_table(
        "chart_alarms",
        sa.Column("alarm_id", sa.Integer, primary_key=True),
        sa.Column("group_id", sa.Integer, sa.ForeignKey("chart_groups.group_id"), nullable=False),
        sa.Column("quantity", sa.Text, nullable=False),
        sa.Column("side", sa.Integer, nullable=False),
        sa.Column("shift_sigma", sa.Float, nullable=False),
        sa.Column("began_at", UtcDateTime, nullable=False),
        sa.Column("raised_at", UtcDateTime, nullable=False),
        sa.Column("ended_at", UtcDateTime),
        sa.Index("ix_chart_alarms_group_id", "group_id", "quantity", "ended_at"),
    )
    op.create_table(
        "scanner_events",
        sa.Column("event_id", sa.Integer, primary_key=True),
        sa.Column("scanner_id", sa.Integer, sa.ForeignKey("scanners.scanner_id"), nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("supersedes", sa.Integer, sa.ForeignKey("scanner_events.event_id"), unique=True),
        sa.Column("withdrawn", sa.Boolean, nullable=False),
        sa.Index("ix_scanner_events_scanner_id", "scanner_id", "at"),
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("labels", sa.String(400), primary_key=True),
        sa.Column("value", sa.Float, nullable=False),
    )
    op.create_table(
        "task_runs",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("every_s", sa.Float, nullable=False),
        sa.Column("last_at", UtcDateTime),
        sa.Column("took_s", sa.Float),
        sa.Column("next_at", UtcDateTime),
        sa.Column("error", sa.Text, nullable=False),
    )
    op.create_table(
        "alerts",
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
    op.create_table(
        "alert_messages",
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
    op.create_table(
        "alert_message_alerts",
        sa.Column("message_id", sa.Integer, sa.ForeignKey("alert_messages.message_id"), primary_key=True),
        sa.Column("alert_id", sa.Integer, sa.ForeignKey("alerts.alert_id"), primary_key=True),
    )
    op.create_index("ix_associations_calling_ae", "associations", ["calling_ae", "host", "opened_at"])
