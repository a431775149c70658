"""Control charts of scanners: points, baselines, events; alerts and their messages; counters; runs of tasks"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dicom_qa_node.store.engine import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLES = (
    "chart_weeks",
    "chart_stale_weeks",
    "chart_points",
    "chart_baselines",
    "chart_alarms",
    "chart_groups",
    "chart_quantities",
    "scanner_events",
    "scanners",
    "counters",
    "task_runs",
    "alert_message_alerts",
    "alert_messages",
    "alerts",
)
APPEND_ONLY = ("chart_baselines", "scanner_events")


def upgrade() -> None:
    _points()
    _words()
    _alerts()
    for statement in _append_only(op.get_bind().dialect.name):
        op.execute(statement)


def _points() -> None:
    op.create_table(
        "chart_quantities",
        sa.Column("quantity_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("meaning", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("quantity_id", name=op.f("pk_chart_quantities")),
        sa.UniqueConstraint("name", name=op.f("uq_chart_quantities_name")),
    )
    op.create_table(
        "scanners",
        sa.Column("scanner_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("manufacturer", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("station", sa.Text(), nullable=False),
        sa.Column("serial", sa.Text(), nullable=False),
        sa.Column("institution", sa.Text(), nullable=False),
        sa.Column("first_at", UtcDateTime(), nullable=False),
        sa.Column("last_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("scanner_id", name=op.f("pk_scanners")),
        sa.UniqueConstraint("key", name=op.f("uq_scanners_key")),
    )
    op.create_table(
        "chart_groups",
        sa.Column("group_id", sa.Integer(), nullable=False),
        sa.Column("scanner_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("network", sa.Text(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("last_at", UtcDateTime(), nullable=False),
        sa.Column("last_score", sa.Float(), nullable=True),
        sa.Column("judged", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["scanner_id"], ["scanners.scanner_id"], name=op.f("fk_chart_groups_scanner_id")),
        sa.PrimaryKeyConstraint("group_id", name=op.f("pk_chart_groups")),
        sa.UniqueConstraint("scanner_id", "kind", "protocol", name=op.f("uq_chart_groups_scanner_id_kind_protocol")),
    )
    op.create_index("ix_chart_groups_kind", "chart_groups", ["kind", "protocol"])
    op.create_table(
        "chart_points",
        sa.Column("result_id", sa.Integer(), nullable=False),
        sa.Column("group_id", sa.Integer(), nullable=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("measured", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["chart_groups.group_id"], name=op.f("fk_chart_points_group_id")),
        sa.ForeignKeyConstraint(["result_id"], ["results.result_id"], name=op.f("fk_chart_points_result_id")),
        sa.PrimaryKeyConstraint("result_id", name=op.f("pk_chart_points")),
    )
    op.create_index("ix_chart_points_group_id", "chart_points", ["group_id", "at", "result_id"])
    op.create_table(
        "chart_stale_weeks",
        sa.Column("group_id", sa.Integer(), nullable=False),
        sa.Column("monday", sa.Date(), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["chart_groups.group_id"], name=op.f("fk_chart_stale_weeks_group_id")),
        sa.PrimaryKeyConstraint("group_id", "monday", name=op.f("pk_chart_stale_weeks")),
    )
    op.create_table(
        "chart_weeks",
        sa.Column("group_id", sa.Integer(), nullable=False),
        sa.Column("quantity_id", sa.Integer(), nullable=False),
        sa.Column("monday", sa.Date(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("p5", sa.Float(), nullable=False),
        sa.Column("q1", sa.Float(), nullable=False),
        sa.Column("median", sa.Float(), nullable=False),
        sa.Column("q3", sa.Float(), nullable=False),
        sa.Column("p95", sa.Float(), nullable=False),
        sa.Column("mean", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["chart_groups.group_id"], name=op.f("fk_chart_weeks_group_id")),
        sa.PrimaryKeyConstraint("group_id", "quantity_id", "monday", name=op.f("pk_chart_weeks")),
    )


def _words() -> None:
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("labels", sa.String(length=400), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", "labels", name=op.f("pk_counters")),
    )
    op.create_table(
        "task_runs",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("every_s", sa.Float(), nullable=False),
        sa.Column("last_at", UtcDateTime(), nullable=True),
        sa.Column("took_s", sa.Float(), nullable=True),
        sa.Column("next_at", UtcDateTime(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_task_runs")),
    )
    op.create_table(
        "scanner_events",
        sa.Column("event_id", sa.Integer(), nullable=False),
        sa.Column("scanner_id", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("supersedes", sa.Integer(), nullable=True),
        sa.Column("withdrawn", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["scanner_id"], ["scanners.scanner_id"], name=op.f("fk_scanner_events_scanner_id")),
        sa.ForeignKeyConstraint(["supersedes"], ["scanner_events.event_id"], name=op.f("fk_scanner_events_supersedes")),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_scanner_events")),
        sa.UniqueConstraint("supersedes", name=op.f("uq_scanner_events_supersedes")),
    )
    op.create_index("ix_scanner_events_scanner_id", "scanner_events", ["scanner_id", "at"])
    op.create_table(
        "chart_alarms",
        sa.Column("alarm_id", sa.Integer(), nullable=False),
        sa.Column("group_id", sa.Integer(), nullable=False),
        sa.Column("quantity", sa.Text(), nullable=False),
        sa.Column("side", sa.Integer(), nullable=False),
        sa.Column("shift_sigma", sa.Float(), nullable=False),
        sa.Column("began_at", UtcDateTime(), nullable=False),
        sa.Column("raised_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["group_id"], ["chart_groups.group_id"], name=op.f("fk_chart_alarms_group_id")),
        sa.PrimaryKeyConstraint("alarm_id", name=op.f("pk_chart_alarms")),
    )
    op.create_index("ix_chart_alarms_group_id", "chart_alarms", ["group_id", "quantity", "ended_at"])
    op.create_table(
        "chart_baselines",
        sa.Column("baseline_id", sa.Integer(), nullable=False),
        sa.Column("group_id", sa.Integer(), nullable=False),
        sa.Column("quantity", sa.Text(), nullable=False),
        sa.Column("first_day", sa.Date(), nullable=True),
        sa.Column("last_day", sa.Date(), nullable=True),
        sa.Column("centre", sa.Float(), nullable=True),
        sa.Column("sigma", sa.Float(), nullable=True),
        sa.Column("total", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["chart_groups.group_id"], name=op.f("fk_chart_baselines_group_id")),
        sa.PrimaryKeyConstraint("baseline_id", name=op.f("pk_chart_baselines")),
    )
    op.create_index("ix_chart_baselines_group_id", "chart_baselines", ["group_id", "quantity", "baseline_id"])
    op.create_index("ix_associations_calling_ae", "associations", ["calling_ae", "host", "opened_at"])


def _alerts() -> None:
    op.create_table(
        "alert_messages",
        sa.Column("message_id", sa.Integer(), nullable=False),
        sa.Column("idempotency_key", sa.String(length=64), nullable=False),
        sa.Column("channel", sa.String(length=64), nullable=False),
        sa.Column("test", sa.Boolean(), nullable=False),
        sa.Column("urgent", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("not_before", UtcDateTime(), nullable=False),
        sa.Column("lease_token", sa.Text(), nullable=True),
        sa.Column("lease_until", UtcDateTime(), nullable=True),
        sa.Column("last_answer", sa.Text(), server_default="", nullable=False),
        sa.Column("sent_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_alert_messages")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_alert_messages_idempotency_key")),
    )
    op.create_index("ix_alert_messages_state", "alert_messages", ["state", "not_before"])
    op.create_table(
        "alerts",
        sa.Column("alert_id", sa.Integer(), nullable=False),
        sa.Column("occasion", sa.String(length=300), nullable=False),
        sa.Column("trouble", sa.String(length=200), nullable=True),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("subject", sa.String(length=16), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("scanner", sa.Text(), nullable=False),
        sa.Column("scanner_id", sa.Integer(), nullable=True),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("acknowledged_at", UtcDateTime(), nullable=True),
        sa.Column("acknowledged_by", sa.Text(), server_default="", nullable=False),
        sa.Column("note", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("alert_id", name=op.f("pk_alerts")),
        sa.UniqueConstraint("occasion", name=op.f("uq_alerts_occasion")),
    )
    op.create_index("ix_alerts_acknowledged_at", "alerts", ["acknowledged_at", "alert_id"])
    op.create_index("ix_alerts_trouble", "alerts", ["trouble", "ended_at"])
    op.create_table(
        "alert_message_alerts",
        sa.Column("message_id", sa.Integer(), nullable=False),
        sa.Column("alert_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["alert_id"], ["alerts.alert_id"], name=op.f("fk_alert_message_alerts_alert_id")),
        sa.ForeignKeyConstraint(
            ["message_id"], ["alert_messages.message_id"], name=op.f("fk_alert_message_alerts_message_id")
        ),
        sa.PrimaryKeyConstraint("message_id", "alert_id", name=op.f("pk_alert_message_alerts")),
    )


def _append_only(dialect: str) -> list[str]:
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER {table}_no_{change} BEFORE {change} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            for table in APPEND_ONLY
            for change in ("update", "delete")
        ]
    function = (
        "CREATE FUNCTION charts_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'this table is append-only'; END $$"
    )
    return [
        function,
        *(
            f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION charts_append_only()"
            for table in APPEND_ONLY
        ),
    ]


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)
    op.drop_index("ix_associations_calling_ae", table_name="associations")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION charts_append_only()")
