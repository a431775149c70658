"""Reference levels that people froze, with their tolerances: versioned and append-only."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from dicom_qa_node.charts.quality_and_dose import Point, names_of, size_curve, values_of
from dicom_qa_node.charts.scanner_registry import scanner_key
from dicom_qa_node.db import chart_tables as s
from dicom_qa_node.db.dose_tables import reference_levels, reference_tolerances
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.reference_levels import (
    DEFAULT_TOLERANCE_PERCENT,
    LEVEL_QUANTITIES,
    LevelForm,
    ReferenceLevel,
    ReferenceLevels,
)
from dicom_qa_node.domain.series import SeriesHeader

__all__ = ["FEWEST_FOR_TYPICAL", "FrozenLevel", "ReferenceLevelStore", "Tolerance", "proposed_level"]

FEWEST_FOR_TYPICAL = 20
"""ICRP 135: a typical value is the median of 20 or more patients."""

_LONGEST_REASON = 500
_MOST_PERCENT = 500.0
_NUMBERS = ("typical", "intercept", "slope_per_mm", "centre_mm", "low_mm", "high_mm", "limit")


@dataclass(frozen=True, slots=True)
class FrozenLevel:
    """One revision of a level; ``level`` is None where it was withdrawn."""

    level_id: int
    group_id: int
    quantity: str
    revision: int
    level: ReferenceLevel | None
    reason: str
    author: str
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Tolerance:
    """One choice of a tolerance; ``protocol`` "" stands for every protocol without one of its own."""

    protocol: str
    quantity: str
    percent: float
    reason: str
    author: str
    created_at: dt.datetime


def proposed_level(points: Sequence[Point], quantity: str) -> ReferenceLevel | None:
    """Return the level that these series give: a size curve from 50, a typical value from 20, None below.

    A typical value holds between the quartiles of the sizes it was taken from. The stated limit proposed is the
    typical value with the tolerance.
    """
    if quantity not in LEVEL_QUANTITIES:
        return None
    size, values = values_of(points, "water_equivalent_diameter"), values_of(points, quantity)
    usable = np.isfinite(size) & np.isfinite(values) & (values > 0)
    size, values = size[usable], values[usable]
    if size.size < FEWEST_FOR_TYPICAL:
        return None
    typical, tolerance = float(np.median(values)), DEFAULT_TOLERANCE_PERCENT[quantity]
    limit = _rounded(typical * (1.0 + tolerance / 100.0))
    curve = size_curve(points, quantity)
    if curve is not None:
        form, low, high = LevelForm.SIZE_CURVE, curve.low_mm, curve.high_mm
        intercept, slope, centre = curve.intercept, curve.slope_per_mm, curve.centre_mm
    else:
        form, intercept, slope, centre = LevelForm.TYPICAL_VALUE, math.log(typical), 0.0, float(np.median(size))
        low, high = (float(value) for value in np.percentile(size, (25, 75)))
    return ReferenceLevel(
        quantity, form, typical, intercept, slope, centre, low, high, limit, int(size.size), tolerance_percent=tolerance
    )


class ReferenceLevelStore:
    """Reads and adds levels and tolerances."""

    def __init__(self, database: Database, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._db, self._clock = database, clock

    def current(self, group_id: int) -> dict[str, FrozenLevel]:
        """Return the levels of a chart group that stand, by quantity."""
        with self._db.read() as connection:
            return _current(connection, [group_id]).get(group_id, {})

    def history(self, group_id: int, limit: int = 100) -> list[FrozenLevel]:
        """Return every revision of the levels of a chart group, the latest first."""
        own = reference_levels.c.group_id == group_id
        query = sa.select(reference_levels).where(own).order_by(reference_levels.c.level_id.desc()).limit(limit)
        with self._db.read() as connection:
            return [_frozen(row) for row in connection.execute(query)]

    def everything(self, limit: int = 1000) -> list[tuple[str, str, FrozenLevel]]:
        """Return the levels that stand with scanner and stratum, by name."""
        with_level = s.groups.c.group_id.in_(sa.select(reference_levels.c.group_id).distinct())
        query = sa.select(s.groups.c.group_id, s.groups.c.protocol, s.groups.c.scanner_id).where(with_level)
        with self._db.read() as connection:
            groups = {row.group_id: row for row in connection.execute(query.limit(limit))}
            names, found = names_of(connection), _current(connection, list(groups))
        rows = [
            (names.get(groups[number].scanner_id, ""), groups[number].protocol, item)
            for number, own in found.items()
            for item in own.values()
        ]
        return sorted(rows, key=lambda row: (row[0], row[1], row[2].quantity))

    def freeze(self, group_id: int, level: ReferenceLevel, *, limit: float, reason: str, author: str) -> FrozenLevel:
        """Freeze a level as the next revision.

        Raises
        ------
        Permanent
            The limit or the reason cannot be used, or somebody froze it at the same time.
        """
        if not (math.isfinite(limit) and limit > 0):
            raise Permanent("the stated limit must be a positive number")
        numbers = {name: getattr(level, name) for name in _NUMBERS} | {"limit": limit}
        payload = json.dumps({**numbers, "form": level.form.value, "count": level.count})
        return self._add(group_id, level.quantity, payload, _reason(reason), author, withdrawn=False)

    def withdraw(self, group_id: int, quantity: str, *, reason: str, author: str) -> FrozenLevel:
        """Take a level back; its revisions stay. Raises `Permanent` where none stands."""
        if quantity not in self.current(group_id):
            raise Permanent("there is no such level to withdraw")
        return self._add(group_id, quantity, "{}", _reason(reason), author, withdrawn=True)

    def _add(
        self, group_id: int, quantity: str, payload: str, reason: str, author: str, *, withdrawn: bool
    ) -> FrozenLevel:
        table = reference_levels
        own = (table.c.group_id == group_id) & (table.c.quantity == quantity)
        row = {"group_id": group_id, "quantity": quantity, "payload": payload, "reason": reason, "author": author}
        try:
            with self._db.write() as connection:
                last = connection.execute(sa.select(sa.func.max(table.c.revision)).where(own)).scalar_one() or 0
                insert = table.insert().values(**row, revision=last + 1, withdrawn=withdrawn, created_at=self._clock())
                number = connection.execute(insert).inserted_primary_key[0]  # type: ignore[index]
                return _frozen(connection.execute(sa.select(table).where(table.c.level_id == number)).one())
        except IntegrityError as error:
            raise Permanent("there is no such stratum, or somebody froze this level at the same time") from error

    # -- tolerances ----------------------------------------------------------------------------------------

    def tolerance(self, protocol: str, quantity: str) -> float:
        """Return how far above its level a quantity may lie, in percent."""
        with self._db.read() as connection:
            return _tolerance(connection, protocol, quantity)

    def tolerances(self, limit: int = 200) -> list[Tolerance]:
        """Return every choice of a tolerance, the latest first."""
        table = reference_tolerances
        with self._db.read() as connection:
            rows = connection.execute(sa.select(table).order_by(table.c.tolerance_id.desc()).limit(limit)).all()
        return [Tolerance(**{name: getattr(row, name) for name in Tolerance.__slots__}) for row in rows]

    def set_tolerance(self, protocol: str, quantity: str, percent: float, *, reason: str, author: str) -> None:
        """Set the tolerance of a protocol and quantity from now on; the protocol "" stands for all others.

        Raises
        ------
        Permanent
            There is no such quantity, or no such tolerance.
        """
        if quantity not in LEVEL_QUANTITIES:
            raise Permanent(f"levels exist for {', '.join(LEVEL_QUANTITIES)}")
        if not (math.isfinite(percent) and 0 < percent <= _MOST_PERCENT):
            raise Permanent(f"a tolerance lies between 0 and {_MOST_PERCENT:g} %")
        row = {"protocol": protocol, "quantity": quantity, "percent": percent, "reason": _reason(reason)}
        insert = reference_tolerances.insert().values(**row, author=author, created_at=self._clock())
        with self._db.write() as connection:
            connection.execute(insert)

    # -- for scoring ---------------------------------------------------------------------------------------

    def of_scanner(self, facts: SeriesHeader) -> ReferenceLevels:
        """Return the levels that hold for the CT series of a scanner, by the stratum that their headers name.

        Scanners that were merged and protocols that were mapped have the levels of the chart they are shown on.
        """
        place = (facts.station_name, facts.device_serial_number, facts.institution_name)
        key = scanner_key(facts.manufacturer, facts.manufacturer_model_name, *place)
        shown = s.groups.alias("shown")
        number = sa.func.coalesce(s.groups.c.charted_as, s.groups.c.group_id)
        joined = s.groups.join(s.scanners, s.scanners.c.scanner_id == s.groups.c.scanner_id).join(
            shown, shown.c.group_id == number
        )
        name = sa.func.coalesce(shown.c.protocol_name, shown.c.protocol).label("name")
        query = sa.select(s.groups.c.protocol, number.label("shown"), name).select_from(joined)
        query = query.where(s.scanners.c.key == key, s.groups.c.kind == "ct")
        query = query.where(number.in_(sa.select(reference_levels.c.group_id)))
        with self._db.read() as connection:
            rows = connection.execute(query).all()
            levels = _current(connection, sorted({row.shown for row in rows}))
            return ReferenceLevels(
                facts.protocol_name or facts.body_part_examined,
                {
                    row.protocol: {
                        quantity: replace(item.level, tolerance_percent=_tolerance(connection, row.name, quantity))
                        for quantity, item in levels[row.shown].items()
                        if item.level is not None
                    }
                    for row in rows
                    if row.shown in levels
                },
            )


def _current(connection: sa.Connection, groups: Sequence[int]) -> dict[int, dict[str, FrozenLevel]]:
    found: dict[int, dict[str, FrozenLevel]] = {}
    if not groups:
        return found
    own = reference_levels.c.group_id.in_(groups)
    for row in connection.execute(sa.select(reference_levels).where(own).order_by(reference_levels.c.level_id)):
        found.setdefault(row.group_id, {})[row.quantity] = _frozen(row)
    return {
        number: standing
        for number, levels in found.items()
        if (standing := {name: item for name, item in levels.items() if item.level is not None})
    }


def _tolerance(connection: sa.Connection, protocol: str, quantity: str) -> float:
    table = reference_tolerances
    for name in (protocol, ""):
        own = (table.c.protocol == name) & (table.c.quantity == quantity)
        query = sa.select(table.c.percent).where(own).order_by(table.c.tolerance_id.desc()).limit(1)
        found = connection.execute(query).scalar_one_or_none()
        if found is not None:
            return float(found)
    return DEFAULT_TOLERANCE_PERCENT[quantity]


def _frozen(row: sa.Row[Any]) -> FrozenLevel:
    level = None
    if not row.withdrawn:
        found = json.loads(row.payload)
        level = ReferenceLevel(
            quantity=row.quantity,
            form=LevelForm(found["form"]),
            count=int(found["count"]),
            revision=row.revision,
            frozen_at=row.created_at,
            **{name: float(found[name]) for name in _NUMBERS},
        )
    return FrozenLevel(
        row.level_id, row.group_id, row.quantity, row.revision, level, row.reason, row.author, row.created_at
    )


def _reason(text: str) -> str:
    words = " ".join(text.split())
    if not words or len(words) > _LONGEST_REASON:
        raise Permanent(f"a reason of at most {_LONGEST_REASON} characters is needed")
    return words


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
