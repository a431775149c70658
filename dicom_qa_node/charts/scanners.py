"""The scanners as the pages show them: cards, charts by protocol group, weeks, the fleet, baselines, events, alarms."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.charts.baselines import SCORE, Baseline, ChartRules, baseline_of, estimate
from dicom_qa_node.charts.control_charts import Distribution, distribution
from dicom_qa_node.db import chart_tables as s
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.chart_tables import SCORE_ID, unpack
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Permanent

__all__ = [
    "Alarm",
    "Card",
    "Chart",
    "Group",
    "Point",
    "Quantity",
    "Scanner",
    "Scanners",
    "Week",
]

_SPARK_WEEKS = 26
_SPREAD = ("p5", "q1", "median", "q3", "p95", "mean")


@dataclass(frozen=True, slots=True)
class Scanner:
    """One device; ``name`` is the word under which the quality log lists its results."""

    scanner_id: int
    name: str
    manufacturer: str
    model: str
    station: str
    serial: str
    institution: str
    first_at: dt.datetime
    last_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Group:
    """The series of one kind and protocol on one scanner: what may stand on one chart."""

    group_id: int
    scanner_id: int
    kind: str
    protocol: str
    count: int
    last_at: dt.datetime
    last_score: float | None


@dataclass(frozen=True, slots=True)
class Quantity:
    """The score or a measured quantity; ``unit`` is a UCUM code."""

    quantity_id: int
    name: str
    meaning: str
    unit: str
    direction: str


@dataclass(frozen=True, slots=True)
class Point:
    """One series on a chart."""

    series_instance_uid: str
    version: int
    at: dt.datetime
    value: float


@dataclass(frozen=True, slots=True)
class Week:
    """The values of one week, which begins on ``monday``."""

    monday: dt.date
    spread: Distribution


@dataclass(frozen=True, slots=True)
class Alarm:
    """A drift; open while ``ended_at`` is None. ``meaning`` is the quantity in words."""

    alarm_id: int
    group_id: int
    kind: str
    protocol: str
    quantity: str
    meaning: str
    side: int
    shift_sigma: float
    began_at: dt.datetime
    raised_at: dt.datetime
    ended_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Card:
    """One scanner of the overview; ``spark`` are weekly medians of the score of its busiest group."""

    scanner: Scanner
    groups: tuple[Group, ...]
    count: int
    last_score: float | None
    alarms: int
    spark: tuple[tuple[dt.date, float], ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """One quantity of one group: the latest points, oldest first, and what they are judged by."""

    group: Group
    quantity: Quantity
    points: tuple[Point, ...]
    baseline: Baseline | None
    quantities: tuple[Quantity, ...]


_SCORE = Quantity(SCORE_ID, SCORE, "Quality score, 0 to 4", "1", "higher is better")


class Scanners:
    """Reads the charts' tables and writes what people decide about them."""

    def __init__(
        self, database: Database, rules: ChartRules | None = None, clock: Callable[[], dt.datetime] = utc_now
    ) -> None:
        self._db, self._rules, self._clock = database, rules or ChartRules(), clock

    # -- reading -------------------------------------------------------------------------------------------

    def overview(self) -> list[Card]:
        """Return one card per scanner, by name."""
        with self._db.read() as connection:
            scanners = [_scanner(row) for row in connection.execute(sa.select(s.scanners).order_by(s.scanners.c.name))]
            groups = _groups(connection, s.groups.c.total > 0)
            alarms: dict[int, int] = {row[0]: row[1] for row in connection.execute(_alarm_counts())}
            spark = self._spark(connection, [found[0].group_id for found in groups.values()])
        return [_card(scanner, groups.get(scanner.scanner_id, []), alarms, spark) for scanner in scanners]

    def scanner(self, scanner_id: int) -> Scanner | None:
        """Return one scanner, or None."""
        query = sa.select(s.scanners).where(s.scanners.c.scanner_id == scanner_id)
        with self._db.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _scanner(row)

    def groups(self, scanner_id: int) -> list[Group]:
        """Return the protocol groups of a scanner, the busiest first."""
        wanted = (s.groups.c.scanner_id == scanner_id) & (s.groups.c.total > 0)
        with self._db.read() as connection:
            return _groups(connection, wanted).get(scanner_id, [])

    def chart(
        self, group: Group, quantity: str = SCORE, *, points: int = 300, until: dt.datetime | None = None
    ) -> Chart | None:
        """Return the latest points of one quantity (up to ``until``); None if the group has no such quantity."""
        with self._db.read() as connection:
            chosen = _quantity(connection, quantity)
            if chosen is None:
                return None
            rows = _latest(connection, group.group_id, points, until)
            found = unpack([row.measured for row in rows], [row.score for row in rows])
            positions, values = found.get(chosen.quantity_id, ((), ()))
            baseline = baseline_of(
                connection, group.group_id, chosen.quantity_id, chosen.name, self._rules.baseline_points
            )
            here = _quantities(connection, set(found) | {chosen.quantity_id})
        pairs = zip(positions, values, strict=True)
        drawn = tuple(_point(rows[position], float(value)) for position, value in pairs)
        return Chart(group, chosen, drawn, baseline, here)

    def quantity_number(self, name: str) -> int | None:
        """Return the number of a quantity, None if nothing of that name was measured."""
        with self._db.read() as connection:
            found = _quantity(connection, name)
        return None if found is None else found.quantity_id

    def weeks(self, group_id: int, quantity_id: int, since: dt.date | None = None) -> list[Week]:
        """Return the weeks of one quantity, the earliest first."""
        week = s.weeks.c
        mine = (week.group_id == group_id) & (week.quantity_id == quantity_id)
        wanted = mine if since is None else mine & (week.monday >= since)
        with self._db.read() as connection:
            rows = connection.execute(sa.select(s.weeks).where(wanted).order_by(week.monday)).all()
        return [Week(row.monday, Distribution(row.total, **{n: getattr(row, n) for n in _SPREAD})) for row in rows]

    def fleet(self, group: Group, quantity_id: int, points: int = 300) -> list[tuple[Scanner, Distribution]]:
        """Return the latest values of every scanner's group of the same kind and protocol, this scanner's first."""
        alike = (s.groups.c.kind == group.kind) & (s.groups.c.protocol == group.protocol) & (s.groups.c.total > 0)
        found: list[tuple[Scanner, Distribution]] = []
        with self._db.read() as connection:
            names = {row.scanner_id: _scanner(row) for row in connection.execute(sa.select(s.scanners))}
            for other in connection.execute(sa.select(s.groups).where(alike)).all():
                spread = _spread(connection, other.group_id, quantity_id, points)
                if spread is not None:
                    found.append((names[other.scanner_id], spread))
        return sorted(found, key=lambda pair: (pair[0].scanner_id != group.scanner_id, pair[0].name))

    def alarms(self, scanner_id: int | None = None, *, only_open: bool = True, limit: int = 100) -> list[Alarm]:
        """Return drift alarms, the latest first."""
        join = s.alarms.join(s.groups, s.groups.c.group_id == s.alarms.c.group_id)
        join = join.outerjoin(s.quantities, s.quantities.c.name == s.alarms.c.quantity)
        # The score is not a measurement and has no row there.
        words = sa.func.coalesce(s.quantities.c.meaning, s.alarms.c.quantity).label("meaning")
        query = sa.select(s.alarms, s.groups.c.kind, s.groups.c.protocol, words).select_from(join)
        if scanner_id is not None:
            query = query.where(s.groups.c.scanner_id == scanner_id)
        if only_open:
            query = query.where(s.alarms.c.ended_at.is_(None))
        with self._db.read() as connection:
            rows = connection.execute(query.order_by(s.alarms.c.alarm_id.desc()).limit(limit)).all()
        return [Alarm(**{name: getattr(row, name) for name in Alarm.__slots__}) for row in rows]

    def behind(self) -> int:
        """Return how many scored versions the charts do not show yet, by their numbers."""
        with self._db.read() as connection:
            newest = connection.execute(sa.select(sa.func.max(t.results.c.result_id))).scalar_one() or 0
            taken = connection.execute(sa.select(sa.func.max(s.points.c.result_id))).scalar_one() or 0
        return max(0, int(newest) - int(taken))

    # -- baselines -----------------------------------------------------------------------------------------

    def choose_baseline(
        self, group: Group, quantity: str, first_day: dt.date, last_day: dt.date, *, reason: str, author: str
    ) -> Baseline:
        """Judge a chart by a period from now on; its limits are computed now and stay as they are.

        Raises
        ------
        Permanent
            The period holds too few points, or there is no such quantity.
        """
        now = self._clock()
        with self._db.write() as connection:
            chosen = _quantity(connection, quantity)
            if chosen is None:
                raise Permanent(f"there is no quantity {quantity!r}")
            limits = estimate(connection, group.group_id, chosen.quantity_id, first_day, last_day)
            if limits is None:
                raise Permanent("this period holds fewer than 20 values; choose a longer one")
            numbers = {"centre": limits.centre, "sigma": limits.sigma, "total": limits.count}
            days = {"first_day": first_day, "last_day": last_day}
            _add_baseline(connection, group.group_id, quantity, {**days, **numbers}, reason, author, now)
        return Baseline(limits, first_day, last_day, reason, author, now)

    def automatic_baseline(self, group: Group, quantity: str, *, reason: str, author: str) -> None:
        """Judge a chart by its first points again."""
        with self._db.write() as connection:
            _add_baseline(connection, group.group_id, quantity, {}, reason, author, self._clock())

    def baselines(self, group_id: int, quantity: str) -> list[Any]:
        """Return every choice that was made for a chart, the latest first, as rows."""
        mine = (s.baselines.c.group_id == group_id) & (s.baselines.c.quantity == quantity)
        with self._db.read() as connection:
            query = sa.select(s.baselines).where(mine).order_by(s.baselines.c.baseline_id.desc())
            return list(connection.execute(query).all())

    def _spark(self, connection: sa.Connection, groups: Sequence[int]) -> dict[int, list[tuple[dt.date, float]]]:
        since = self._clock().date() - dt.timedelta(weeks=_SPARK_WEEKS)
        week = s.weeks.c
        wanted = week.group_id.in_(list(groups)) & (week.quantity_id == SCORE_ID) & (week.monday >= since)
        query = sa.select(week.group_id, week.monday, week.median).where(wanted).order_by(week.monday)
        found: dict[int, list[tuple[dt.date, float]]] = {}
        for group_id, monday, median in connection.execute(query):
            found.setdefault(group_id, []).append((monday, median))
        return found


def _add_baseline(
    connection: sa.Connection,
    group_id: int,
    quantity: str,
    values: dict[str, Any],
    reason: str,
    author: str,
    now: dt.datetime,
) -> None:
    words = {"reason": reason.strip()[:500], "author": author, "created_at": now}
    connection.execute(s.baselines.insert().values(group_id=group_id, quantity=quantity, **values, **words))
    connection.execute(s.groups.update().where(s.groups.c.group_id == group_id).values(judged=False))


def _groups(connection: sa.Connection, wanted: sa.ColumnElement[bool]) -> dict[int, list[Group]]:
    query = sa.select(s.groups).where(wanted).order_by(s.groups.c.total.desc(), s.groups.c.group_id)
    found: dict[int, list[Group]] = {}
    for row in connection.execute(query):
        group = Group(count=row.total, **{name: getattr(row, name) for name in Group.__slots__ if name != "count"})
        found.setdefault(group.scanner_id, []).append(group)
    return found


def _card(
    scanner: Scanner,
    groups: Sequence[Group],
    alarms: dict[int, int],
    spark: dict[int, list[tuple[dt.date, float]]],
) -> Card:
    latest = max(groups, key=lambda group: group.last_at, default=None)
    return Card(
        scanner=scanner,
        groups=tuple(groups),
        count=sum(group.count for group in groups),
        last_score=None if latest is None else latest.last_score,
        alarms=alarms.get(scanner.scanner_id, 0),
        spark=tuple(spark.get(groups[0].group_id, ())) if groups else (),
    )


def _alarm_counts() -> sa.Select[Any]:
    join = s.alarms.join(s.groups, s.groups.c.group_id == s.alarms.c.group_id)
    count = sa.select(s.groups.c.scanner_id, sa.func.count()).select_from(join)
    return count.where(s.alarms.c.ended_at.is_(None)).group_by(s.groups.c.scanner_id)


def _latest(connection: sa.Connection, group_id: int, points: int, until: dt.datetime | None) -> list[Any]:
    point = s.points.c
    mine = point.group_id == group_id
    wanted = mine if until is None else mine & (point.at < until)
    latest = (
        sa.select(point.result_id, point.at, point.score, point.measured)
        .where(wanted)
        .order_by(point.at.desc(), point.result_id.desc())
        .limit(points)
        .subquery()
    )
    names = (t.results.c.series_instance_uid, t.results.c.version)
    joined = latest.join(t.results, t.results.c.result_id == latest.c.result_id)
    query = sa.select(latest, *names).select_from(joined).order_by(latest.c.at, latest.c.result_id)
    return list(connection.execute(query).all())


def _spread(connection: sa.Connection, group_id: int, quantity_id: int, points: int) -> Distribution | None:
    point = s.points.c
    query = sa.select(point.measured, point.score).where(point.group_id == group_id)
    rows = connection.execute(query.order_by(point.at.desc(), point.result_id.desc()).limit(points)).all()
    _, values = unpack([row.measured for row in rows], [row.score for row in rows]).get(quantity_id, (None, ()))
    return distribution(values)


def _quantity(connection: sa.Connection, name: str) -> Quantity | None:
    if name == SCORE:
        return _SCORE
    row = connection.execute(sa.select(s.quantities).where(s.quantities.c.name == name)).one_or_none()
    return None if row is None else Quantity(**row._mapping)


def _quantities(connection: sa.Connection, numbers: set[int]) -> tuple[Quantity, ...]:
    query = sa.select(s.quantities).where(s.quantities.c.quantity_id.in_(numbers)).order_by(s.quantities.c.meaning)
    return (_SCORE, *(Quantity(**row._mapping) for row in connection.execute(query)))


def _point(row: Any, value: float) -> Point:
    return Point(row.series_instance_uid, row.version, row.at, value)


def _scanner(row: Any) -> Scanner:
    return Scanner(**{name: getattr(row, name) for name in Scanner.__slots__})
