"""Noise, sharpness, dose and size of the series of a stratum, and what is usual in each group of patient size.

Reads at most some thousand of the latest series of a stratum, by the index of the charts; the dose is that of the
linked dose report where there is one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from dicom_qa_node.charts.naming import read_names
from dicom_qa_node.charts.size_curve import SizeCurve, size_curve_of
from dicom_qa_node.db import chart_tables as s
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.chart_tables import unpack
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.dose import DoseSource
from dicom_qa_node.dose.series_dose import dose_of

__all__ = [
    "FEWEST_FOR_BAND",
    "FEWEST_FOR_QUARTILES",
    "MOST_POINTS",
    "SIZE_GROUPS_MM",
    "BandStep",
    "Chosen",
    "Point",
    "QualityAndDose",
    "SizeGroup",
    "StratumRow",
    "band_of",
    "day_bounds",
    "dose_constant",
    "names_of",
    "size_curve",
    "size_groups",
    "values_of",
]

SIZE_GROUPS_MM = ((210.0, 250.0), (250.0, 290.0), (290.0, 330.0), (330.0, 370.0), (370.0, 410.0))
"""Groups of water-equivalent diameter of the ACR's diagnostic reference levels of 2017."""

MOST_POINTS = 2000
FEWEST_FOR_QUARTILES = 10
FEWEST_FOR_BAND = 20

_MOST_GROUPS = 60
_EARLIEST, _LATEST = dt.date(1980, 1, 1), dt.date(2200, 12, 31)
_BAND_STEP_MM = 10.0
_BAND_HALF_MM = 15.0
_QUANTITIES = ("global_noise_level", "ctdi_vol", "ssde", "skin_edge_f50", "water_equivalent_diameter")

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StratumRow:
    """One stratum that can be chosen; ``groups`` are the numbers of its chart groups by scanner."""

    label: str
    protocol: str
    total: int
    groups: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Point:
    """One series; None for what was not measured. Noise in HU, dose in mGy, f50 in 1/mm, size in mm."""

    series_instance_uid: str
    scanner_id: int
    scanner: str
    at: dt.datetime
    global_noise_level: float | None = None
    ctdi_vol: float | None = None
    ssde: float | None = None
    skin_edge_f50: float | None = None
    water_equivalent_diameter: float | None = None
    dose_source: DoseSource = DoseSource.NONE


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a page or a file shows: the stratum, the scanner (None for all), and its series, the earliest first."""

    stratum: StratumRow
    scanner_id: int | None
    points: tuple[Point, ...]
    fleet: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class SizeGroup:
    """One quantity in one group of size; quartiles are None below ten values.

    ``level`` is the site's level at the median size of the group, ``outside`` the share of its series beyond that
    level's tolerance and limit, None without a level. ``fleet_median`` is the median over all scanners.
    """

    low_mm: float
    high_mm: float
    count: int
    median: float | None
    q1: float | None
    q3: float | None
    median_size_mm: float | None
    fleet_count: int = 0
    fleet_median: float | None = None
    level: float | None = None
    outside: float | None = None


@dataclass(frozen=True, slots=True)
class BandStep:
    """Median and quartiles of the series around one diameter."""

    diameter_mm: float
    q1: float
    median: float
    q3: float
    count: int


class QualityAndDose:
    """Reads strata and their series."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def scanners(self) -> list[tuple[int, str]]:
        """Return number and name of the scanners that have CT series, by name."""
        group = s.groups.c
        query = sa.select(group.scanner_id).where(group.kind == "ct", group.total > 0).distinct()
        with self._db.read() as connection:
            numbers = list(connection.execute(query).scalars())
            names = names_of(connection)
        return sorted(((number, names[number]) for number in numbers), key=lambda pair: pair[1].casefold())

    def strata(self, scanner_id: int | None = None) -> list[StratumRow]:
        """Return the CT strata of a scanner, or of all, the one with the most series first."""
        group = s.groups.c
        wanted = (group.kind == "ct") & (group.total > 0)
        if scanner_id is not None:
            wanted &= group.scanner_id == scanner_id
        columns = (group.protocol, group.protocol_name, group.total, group.group_id, group.scanner_id)
        found: dict[str, StratumRow] = {}
        with self._db.read() as connection:
            for row in connection.execute(sa.select(*columns).where(wanted).order_by(group.total.desc())):
                known = found.get(row.protocol) or StratumRow(row.protocol, row.protocol_name or row.protocol, 0, ())
                groups = (*known.groups, (row.group_id, row.scanner_id))
                found[row.protocol] = replace(known, total=known.total + row.total, groups=groups)
        return sorted(found.values(), key=lambda item: (-item.total, item.label))

    def chosen(
        self,
        label: str,
        scanner_id: int | None = None,
        *,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        limit: int = MOST_POINTS,
    ) -> Chosen | None:
        """Return a stratum with its latest series by time of acquisition, and those of the other scanners beside it.

        None where there is no such stratum. ``limit`` is divided between the scanners.
        """
        everywhere = next((item for item in self.strata() if item.label == label), None)
        if everywhere is None:
            return None
        own = tuple(pair for pair in everywhere.groups if scanner_id in (None, pair[1]))
        if not own:
            return None
        with self._db.read() as connection:
            others = [pair for pair in everywhere.groups if pair not in own][:_MOST_GROUPS]
            mine = _points(connection, own[:_MOST_GROUPS], since, until, limit)
            rest = _points(connection, others, since, until, limit)
        fleet = tuple(sorted((*mine, *rest), key=lambda point: (point.at, point.series_instance_uid)))
        total = everywhere.total if scanner_id is None else len(mine)
        return Chosen(replace(everywhere, groups=own, total=total), scanner_id, tuple(mine), fleet)


def day_bounds(since: dt.date | None, until: dt.date | None) -> tuple[dt.datetime | None, dt.datetime | None]:
    """Return the moments between which whole days lie in the node's time zone; the second is not included.

    Days before 1980 and after 2200, at whose ends no clock can be converted, bound as those do.
    """
    first, last = (None if day is None else min(max(day, _EARLIEST), _LATEST) for day in (since, until))
    begin = None if first is None else dt.datetime.combine(first, dt.time()).astimezone(dt.UTC)
    if last is None:
        return begin, None
    return begin, dt.datetime.combine(last + dt.timedelta(days=1), dt.time()).astimezone(dt.UTC)


def _points(
    connection: sa.Connection,
    groups: Sequence[tuple[int, int]],
    since: dt.datetime | None,
    until: dt.datetime | None,
    limit: int,
) -> list[Point]:
    if not groups:
        return []
    numbers = {row.name: row.quantity_id for row in connection.execute(_quantity_numbers())}
    names, found = names_of(connection), list[Point]()
    share = max(1, limit // len(groups))
    for group_id, scanner_id in groups:
        rows = _latest(connection, group_id, since, until, share)
        values = unpack([row.measured for row in rows], [None] * len(rows))
        columns = {name: _column(values, numbers.get(name), len(rows)) for name in _QUANTITIES}
        for index, row in enumerate(rows):
            noise, ctdi, ssde, f50, size = (columns[name][index] for name in _QUANTITIES)
            uid = row.series_instance_uid
            found.append(
                Point(uid, scanner_id, names.get(scanner_id, ""), row.acquired_at, noise, ctdi, ssde, f50, size)
            )
    return _with_reported_dose(connection, sorted(found, key=lambda point: (point.at, point.series_instance_uid)))


def _with_reported_dose(connection: sa.Connection, points: Sequence[Point]) -> list[Point]:
    known = dose_of(connection, [point.series_instance_uid for point in points])
    found: list[Point] = []
    for point in points:
        dose = known.get(point.series_instance_uid)
        if dose is not None and dose.ctdi_vol_mgy is not None:
            ssde = point.ssde if dose.ssde_mgy is None else dose.ssde_mgy
            found.append(replace(point, ctdi_vol=dose.ctdi_vol_mgy, ssde=ssde, dose_source=dose.source))
        else:
            source = DoseSource.NONE if point.ctdi_vol is None else DoseSource.HEADER
            found.append(replace(point, dose_source=source))
    return found


def _latest(
    connection: sa.Connection, group_id: int, since: dt.datetime | None, until: dt.datetime | None, limit: int
) -> list[Any]:
    point = s.points.c
    wanted = point.group_id == group_id
    if since is not None:
        wanted &= point.acquired_at >= since
    if until is not None:
        wanted &= point.acquired_at < until
    latest = sa.select(point.result_id, point.acquired_at, point.measured).where(wanted)
    latest = latest.order_by(point.acquired_at.desc(), point.result_id.desc()).limit(limit)
    newest = latest.subquery()
    joined = newest.join(t.results, t.results.c.result_id == newest.c.result_id)
    query = sa.select(newest, t.results.c.series_instance_uid).select_from(joined)
    return list(connection.execute(query).all())


def _quantity_numbers() -> sa.Select[Any]:
    return sa.select(s.quantities.c.name, s.quantities.c.quantity_id).where(s.quantities.c.name.in_(_QUANTITIES))


def _column(values: dict[int, tuple[Any, Values]], number: int | None, count: int) -> list[float | None]:
    column: list[float | None] = [None] * count
    if number is not None and number in values:
        for position, value in zip(*values[number], strict=True):
            column[int(position)] = float(value)
    return column


def names_of(connection: sa.Connection) -> dict[int, str]:
    """Return the names under which people know the scanners."""
    names = read_names(connection)
    return {number: names.scanner(number) for number in names.scanners}


# -- what is usual -------------------------------------------------------------------------------------------


def values_of(points: Iterable[Point], quantity: str) -> Values:
    """Return one quantity of the series, NaN where it was not measured."""
    found = [getattr(point, quantity) for point in points]
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64)


def size_curve(points: Sequence[Point], quantity: str) -> SizeCurve | None:
    """Return the size curve of a quantity, None below 50 series."""
    return size_curve_of(values_of(points, "water_equivalent_diameter"), values_of(points, quantity))


def dose_constant(points: Sequence[Point], dose: str, noise: str = "global_noise_level") -> float | None:
    """Return k of the curve noise = k dose^-1/2 through the median: the median of noise times the root of dose.

    None below 20 series.
    """
    doses, noises = values_of(points, dose), values_of(points, noise)
    usable = np.isfinite(doses) & np.isfinite(noises) & (doses > 0)
    if usable.sum() < FEWEST_FOR_BAND:
        return None
    return float(np.median(noises[usable] * np.sqrt(doses[usable])))


def band_of(points: Sequence[Point], quantity: str) -> list[BandStep]:
    """Return median and quartiles of a quantity along the diameter, from 20 series on.

    Each step looks at the series within 15 mm; steps with fewer than ten are left out.
    """
    size, values = _sized(points, quantity)
    if size.size < FEWEST_FOR_BAND:
        return []
    found: list[BandStep] = []
    for middle in np.arange(np.ceil(size.min() / _BAND_STEP_MM), np.floor(size.max() / _BAND_STEP_MM) + 1):
        near = values[np.abs(size - middle * _BAND_STEP_MM) <= _BAND_HALF_MM]
        if near.size >= FEWEST_FOR_QUARTILES:
            q1, median, q3 = (float(value) for value in np.percentile(near, (25, 50, 75)))
            found.append(BandStep(float(middle * _BAND_STEP_MM), q1, median, q3, int(near.size)))
    return found


def size_groups(points: Sequence[Point], fleet: Sequence[Point], quantity: str) -> list[SizeGroup]:
    """Return the groups of size with what is usual in each; a group without a series stands, too."""
    own, all_scanners = _sized(points, quantity), _sized(fleet, quantity)
    found: list[SizeGroup] = []
    for low, high in SIZE_GROUPS_MM:
        size, values = _within(own, low, high)
        _, elsewhere = _within(all_scanners, low, high)
        enough = values.size >= FEWEST_FOR_QUARTILES
        q1, q3 = (float(value) for value in np.percentile(values, (25, 75))) if enough else (None, None)
        found.append(
            SizeGroup(
                low_mm=low,
                high_mm=high,
                count=int(values.size),
                median=float(np.median(values)) if values.size else None,
                q1=q1,
                q3=q3,
                median_size_mm=float(np.median(size)) if values.size else None,
                fleet_count=int(elsewhere.size),
                fleet_median=float(np.median(elsewhere)) if elsewhere.size else None,
            )
        )
    return found


def _sized(points: Sequence[Point], quantity: str) -> tuple[Values, Values]:
    size, values = values_of(points, "water_equivalent_diameter"), values_of(points, quantity)
    usable = np.isfinite(size) & np.isfinite(values)
    return size[usable], values[usable]


def _within(found: tuple[Values, Values], low: float, high: float) -> tuple[Values, Values]:
    size, values = found
    inside = (size >= low) & (size < high)
    return size[inside], values[inside]
