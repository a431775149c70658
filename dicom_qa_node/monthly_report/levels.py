"""Compares the series of a month with the reference levels that people froze."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from dicom_qa_node.charts.reference_levels import FrozenLevel, ReferenceLevelStore
from dicom_qa_node.db import chart_tables as s
from dicom_qa_node.db.chart_tables import Values, unpack
from dicom_qa_node.db.engine import Database
from dicom_qa_node.monthly_report.figures import LevelLine
from dicom_qa_node.monthly_report.month import Month

__all__ = ["level_lines"]

_Unpacked = Mapping[int, tuple[NDArray[np.intp], Values]]
_MOST_LEVELS = 200
_SIZE = "water_equivalent_diameter"


def level_lines(database: Database, month: Month, scanner: str = "") -> tuple[LevelLine, ...]:
    """Return each level that stands, with the series of its stratum that were acquired in the month."""
    store = ReferenceLevelStore(database)
    levels = [row for row in store.everything(_MOST_LEVELS) if scanner in ("", row[0])]
    tolerances = {(row[1], row[2].quantity): store.tolerance(row[1], row[2].quantity) for row in levels}
    with database.read() as connection:
        known = connection.execute(
            sa.select(s.quantities.c.name, s.quantities.c.quantity_id, s.quantities.c.unit)
        ).all()
        numbers, units = {row.name: row.quantity_id for row in known}, {row.name: row.unit for row in known}
        groups = sorted({frozen.group_id for _, _, frozen in levels})
        measured = {group: _measured(connection, group, month) for group in groups}
    return tuple(
        _line(name, protocol, frozen, tolerances[protocol, frozen.quantity], measured[frozen.group_id], numbers, units)
        for name, protocol, frozen in levels
    )


def _measured(connection: sa.Connection, group_id: int, month: Month) -> list[bytes]:
    p = s.points.c
    inside = (p.group_id == group_id) & (p.acquired_at >= month.begin) & (p.acquired_at < month.end)
    return list(connection.execute(sa.select(p.measured).where(inside)).scalars())


def _line(
    scanner: str, protocol: str, frozen: FrozenLevel, tolerance: float, cells: Sequence[bytes],
    numbers: Mapping[str, int], units: Mapping[str, str],
) -> LevelLine:  # fmt: skip
    level = frozen.level
    assert level is not None
    found = unpack(cells, [None] * len(cells))
    values = _column(found, numbers.get(frozen.quantity, -1), len(cells))
    sizes = _column(found, numbers.get(_SIZE, -1), len(cells))
    ratios, outside = [], 0
    for value, size in zip(values, sizes, strict=True):
        at = None if np.isnan(value) or np.isnan(size) else level.at(float(size))
        if at is not None:
            ratios.append(float(value) / at)
            outside += value > at * (1.0 + tolerance / 100.0) and value > level.limit
    return LevelLine(
        scanner, protocol, frozen.quantity, units.get(frozen.quantity, ""), level.typical, level.form.value,
        frozen.revision, frozen.created_at, len(ratios), 100.0 * statistics.median(ratios) if ratios else None,
        int(outside),
    )  # fmt: skip


def _column(found: _Unpacked, number: int, rows: int) -> Values:
    column: Values = np.full(rows, np.nan)
    if number in found:
        positions, values = found[number]
        column[positions] = values
    return column
