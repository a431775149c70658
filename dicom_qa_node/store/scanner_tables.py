"""Tables of the control charts: what was scored, by scanner and protocol, in a form that draws fast.

``chart_points`` and everything counted from it is derived from ``results`` by `store.folding` and can be made again;
``chart_baselines`` and ``scanner_events`` are what people decided and wrote: rows are added, never changed.
"""

from __future__ import annotations

import sqlalchemy as sa

from dicom_qa_node.store.engine import UtcDateTime
from dicom_qa_node.store.tables import associations, metadata

__all__ = [
    "APPEND_ONLY",
    "alarms",
    "baselines",
    "counters",
    "events",
    "groups",
    "points",
    "quantities",
    "scanners",
    "stale_weeks",
    "task_runs",
    "weeks",
]

scanners = sa.Table(
    "scanners",
    metadata,
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

groups = sa.Table(
    "chart_groups",
    metadata,
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

quantities = sa.Table(
    "chart_quantities",
    metadata,
    sa.Column("quantity_id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("meaning", sa.Text, nullable=False),
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("direction", sa.Text, nullable=False),
)

#: One row per result; ``group_id`` is empty where a later version of the series has taken its place.
points = sa.Table(
    "chart_points",
    metadata,
    sa.Column("result_id", sa.Integer, sa.ForeignKey("results.result_id"), primary_key=True),
    sa.Column("group_id", sa.Integer, sa.ForeignKey("chart_groups.group_id")),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("score", sa.Float),
    sa.Column("measured", sa.LargeBinary, nullable=False),
    sa.Index("ix_chart_points_group_id", "group_id", "at", "result_id"),
)

weeks = sa.Table(
    "chart_weeks",
    metadata,
    sa.Column("group_id", sa.Integer, sa.ForeignKey("chart_groups.group_id"), primary_key=True),
    sa.Column("quantity_id", sa.Integer, primary_key=True),
    sa.Column("monday", sa.Date, primary_key=True),
    sa.Column("total", sa.Integer, nullable=False),
    *(sa.Column(name, sa.Float, nullable=False) for name in ("p5", "q1", "median", "q3", "p95", "mean")),
)

stale_weeks = sa.Table(
    "chart_stale_weeks",
    metadata,
    sa.Column("group_id", sa.Integer, sa.ForeignKey("chart_groups.group_id"), primary_key=True),
    sa.Column("monday", sa.Date, primary_key=True),
)

baselines = sa.Table(
    "chart_baselines",
    metadata,
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

alarms = sa.Table(
    "chart_alarms",
    metadata,
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

events = sa.Table(
    "scanner_events",
    metadata,
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

counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("labels", sa.String(400), primary_key=True),
    sa.Column("value", sa.Float, nullable=False),
)

task_runs = sa.Table(
    "task_runs",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("every_s", sa.Float, nullable=False),
    sa.Column("last_at", UtcDateTime),
    sa.Column("took_s", sa.Float),
    sa.Column("next_at", UtcDateTime),
    sa.Column("error", sa.Text, nullable=False),
)

APPEND_ONLY = ("chart_baselines", "scanner_events")

sa.Index("ix_associations_calling_ae", associations.c.calling_ae, associations.c.host, associations.c.opened_at)
