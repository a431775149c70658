"""Tables and columns of strata, acquisition dates, causes of drifts, and names of scanners and protocols."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from dicom_qa_node.db.engine import UtcDateTime

__all__ = ["create", "drop"]

_COLUMNS: dict[str, tuple[tuple[str, Any], ...]] = {
    "chart_groups": (
        ("protocol_name", sa.Text),
        ("kernel", sa.String(16)),
        ("reconstruction", sa.String(16)),
        ("thickness", sa.String(16)),
        ("charted_as", sa.Integer),
        ("moving", sa.Boolean),
    ),
    "chart_points": (("acquired_at", UtcDateTime), ("source_group_id", sa.Integer)),
    "chart_baselines": (("from_at", UtcDateTime),),
    "chart_alarms": (("cause_id", sa.Integer), ("sentence", sa.Text), ("improvement", sa.Boolean)),
    "log_rows": (("acquired_on", sa.Date),),
    "log_facets": (("scanner_id", sa.Integer), ("shown_scanner", sa.Text), ("shown_protocol", sa.Text)),
}
_INDEXES = {
    "ix_chart_points_acquired_at": ("chart_points", ["group_id", "acquired_at", "result_id"]),
    "ix_chart_points_source_group_id": ("chart_points", ["source_group_id", "group_id"]),
    "ix_log_rows_acquired_on": (
        "log_rows",
        [
            "acquired_on", "result_id", "facet_id", "grade", "severity", "findings", "delivery", "review", "latest",
            "scored_at",
        ],
    ),
}  # fmt: skip


def create() -> None:
    """Create the tables, columns and indexes."""
    for table, added in _COLUMNS.items():
        for name, kind in added:
            op.add_column(table, sa.Column(name, kind))
    # What was scored before keeps the order it had: the time of the acquisition was not kept.
    op.execute("UPDATE chart_points SET acquired_at = at, source_group_id = group_id")
    day = "date(scored_at)" if op.get_bind().dialect.name == "sqlite" else "scored_at::date"
    op.execute(f"UPDATE log_rows SET acquired_on = {day}")
    for name, (table, columns) in _INDEXES.items():
        op.create_index(name, table, columns)
    op.create_table(
        "scanner_names",
        sa.Column("scanner_id", sa.Integer, sa.ForeignKey("scanners.scanner_id"), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("part_of", sa.Integer, sa.ForeignKey("scanners.scanner_id")),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("changed_at", UtcDateTime, nullable=False),
    )
    op.create_table(
        "protocol_names",
        sa.Column("written", sa.Text, primary_key=True),
        sa.Column("shown", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("changed_at", UtcDateTime, nullable=False),
    )


def drop() -> None:
    """Take back what ``create`` made, in reverse order."""
    op.drop_table("protocol_names")
    op.drop_table("scanner_names")
    for name, (table, _) in reversed(_INDEXES.items()):
        op.drop_index(name, table)
    for table, added in reversed(_COLUMNS.items()):
        for name, _ in reversed(added):
            op.drop_column(table, name)
