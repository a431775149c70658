"""Tables of the control charts and alerts: what was scored, by scanner and protocol, and what was noticed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from dicom_qa_node.db.engine import UtcDateTime
from dicom_qa_node.db.tables import associations, metadata

__all__ = [
    "APPEND_ONLY",
    "SCORE_ID",
    "Values",
    "alarms",
    "alerts",
    "baselines",
    "counters",
    "events",
    "groups",
    "message_alerts",
    "messages",
    "pack",
    "points",
    "protocol_names",
    "quantities",
    "scanner_names",
    "scanners",
    "stale_weeks",
    "task_runs",
    "unpack",
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

#: One row per stratum of a scanner (`charts.strata`). ``protocol`` is the label of the chart: the protocol alone where
#: nothing else is known of its series. ``charted_as`` is the group whose chart shows these series, where a person
#: merged scanners or mapped protocol names; empty: this one. ``moving`` is set while its points are on their way there.
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
    sa.Column("protocol_name", sa.Text),
    sa.Column("kernel", sa.String(16)),
    sa.Column("reconstruction", sa.String(16)),
    sa.Column("thickness", sa.String(16)),
    sa.Column("charted_as", sa.Integer),
    sa.Column("moving", sa.Boolean),
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

#: One row per result; ``group_id`` is empty where a later version of the series has taken its place, and
#: ``source_group_id`` is then kept: the group that the headers name, whatever names people gave. ``at`` is when the
#: series was first scored, ``acquired_at`` when it was acquired.
points = sa.Table(
    "chart_points",
    metadata,
    sa.Column("result_id", sa.Integer, sa.ForeignKey("results.result_id"), primary_key=True),
    sa.Column("group_id", sa.Integer, sa.ForeignKey("chart_groups.group_id")),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("score", sa.Float),
    sa.Column("measured", sa.LargeBinary, nullable=False),
    sa.Column("acquired_at", UtcDateTime),
    sa.Column("source_group_id", sa.Integer),
    sa.Index("ix_chart_points_group_id", "group_id", "at", "result_id"),
    sa.Index("ix_chart_points_acquired_at", "group_id", "acquired_at", "result_id"),
    sa.Index("ix_chart_points_source_group_id", "source_group_id", "group_id"),
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

#: ``quantity`` "*" stands for all of the group. With ``from_at`` the first points from that time on make the baseline.
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
    sa.Column("from_at", UtcDateTime),
    sa.Index("ix_chart_baselines_group_id", "group_id", "quantity", "baseline_id"),
)

#: What drifts together in one group is one alarm: ``cause_id`` is empty for the earliest, which ``sentence`` names, and
#: its number for the others.
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
    sa.Column("cause_id", sa.Integer),
    sa.Column("sentence", sa.Text),
    sa.Column("improvement", sa.Boolean),
    sa.Index("ix_chart_alarms_group_id", "group_id", "quantity", "ended_at"),
)

#: What people call a scanner; ``part_of`` is the one it is shown under. An empty name is the derived one.
scanner_names = sa.Table(
    "scanner_names",
    metadata,
    sa.Column("scanner_id", sa.Integer, sa.ForeignKey("scanners.scanner_id"), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("part_of", sa.Integer, sa.ForeignKey("scanners.scanner_id")),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
)

protocol_names = sa.Table(
    "protocol_names",
    metadata,
    sa.Column("written", sa.Text, primary_key=True),
    sa.Column("shown", sa.Text, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
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
#: The score is a quantity like the measured ones; its number is never that of a row of ``chart_quantities``.
SCORE_ID = 0
_CELL = np.dtype([("quantity_id", "<u2"), ("value", "<f8")])

Values = NDArray[np.float64]


def pack(values: Mapping[int, float]) -> bytes:
    """Return quantity numbers and values as ten bytes each: an unsigned 16-bit number and a double."""
    return np.array(sorted(values.items()), dtype=_CELL).tobytes()


def unpack(cells: Sequence[bytes], scores: Iterable[float | None]) -> dict[int, tuple[NDArray[np.intp], Values]]:
    """Return for each quantity the rows that have it and its values, rows in the order of ``cells``."""
    flat = np.frombuffer(b"".join(cells), dtype=_CELL)
    rows = np.repeat(np.arange(len(cells)), [len(cell) // _CELL.itemsize for cell in cells])
    found = {
        int(number): (rows[chosen], flat["value"][chosen].astype(np.float64))
        for number in np.unique(flat["quantity_id"])
        for chosen in [flat["quantity_id"] == number]
    }
    score = np.array([np.nan if value is None else value for value in scores], dtype=np.float64)
    present = np.flatnonzero(~np.isnan(score))
    return found | ({SCORE_ID: (present, score[present])} if present.size else {})


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
