"""The scanners as the pages show them: cards, charts by protocol group, weeks, the fleet, baselines, events, alarms."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.charts.arrival_order import TimeAxis, late_arrivals
from dicom_qa_node.charts.baselines import (
    EVERY_QUANTITY,
    SCORE,
    Baseline,
    Baselines,
    ChartRules,
    Measured,
    MeasuredRows,
    TooFew,
    measured_of,
)
from dicom_qa_node.charts.chart_records import (
    Alarm,
    Card,
    Chart,
    Group,
    Light,
    Point,
    Quantity,
    Scanner,
    Week,
)
from dicom_qa_node.charts.control_charts import Distribution, distribution
from dicom_qa_node.charts.judgement import judge
from dicom_qa_node.charts.naming import Names, read_names
from dicom_qa_node.db import chart_tables as s
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.chart_tables import SCORE_ID, unpack
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.log_tables import GRADE_CODES, log_facets, log_rows
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Permanent

__all__ = [
    "Alarm",
    "Card",
    "Chart",
    "Group",
    "Light",
    "Point",
    "Quantity",
    "Scanner",
    "Scanners",
    "Week",
]

_SPARK_WEEKS = 26
_LOOKED_AT = 20
#: Groups of a scanner, the busiest, of which the overview asks whether they have a baseline.
_BUSIEST = 20
_GRADED = dt.timedelta(days=7)
_SPREAD = ("p5", "q1", "median", "q3", "p95", "mean")


_SCORE = Quantity(SCORE_ID, SCORE, "Quality score, 0 to 4", "1", "higher is better")


class Scanners:
    """Reads the charts' tables and writes what people decide about them."""

    def __init__(
        self, database: Database, rules: ChartRules | None = None, clock: Callable[[], dt.datetime] = utc_now
    ) -> None:
        self._db, self._rules, self._clock = database, rules or ChartRules(), clock

    # -- reading -------------------------------------------------------------------------------------------

    def overview(self) -> list[Card]:
        """Return one card per scanner, by name; those that are shown as another have none."""
        with self._db.read() as connection:
            names = read_names(connection)
            scanners = _scanners(connection, names)
            groups = _groups(connection, s.groups.c.total > 0)
            alarms = {row[0]: (row[1], row[2]) for row in connection.execute(_alarm_counts())}
            spark = self._spark(connection, [found[0].group_id for found in groups.values()])
            grades = _grades(connection, names, self._clock() - _GRADED)
            collected = self._collected(connection, groups)
        return [
            _card(
                scanner,
                groups.get(scanner.scanner_id, []),
                alarms.get(scanner.scanner_id, (0, 0)),
                spark,
                grades.get(scanner.scanner_id, {}),
                collected.get(scanner.scanner_id),
            )
            for scanner in scanners
        ]

    def scanner(self, scanner_id: int) -> Scanner | None:
        """Return one scanner, or None; of one that is shown as another, that other."""
        with self._db.read() as connection:
            names = read_names(connection)
            wanted = names.root(scanner_id)
            return next((item for item in _scanners(connection, names) if item.scanner_id == wanted), None)

    def every_device(self) -> list[tuple[Scanner, int | None]]:
        """Return every device by name, with the number of the one it is shown as."""
        with self._db.read() as connection:
            names = read_names(connection)
            rows = connection.execute(sa.select(s.scanners)).all()
        found = [(_scanner(row, names.scanners[row.scanner_id]), names.shown_as.get(row.scanner_id)) for row in rows]
        return sorted(found, key=lambda pair: (pair[0].name.casefold(), pair[0].scanner_id))

    def group(self, group_id: int) -> Group | None:
        """Return one group that has series, or None."""
        wanted = (s.groups.c.group_id == group_id) & (s.groups.c.total > 0)
        with self._db.read() as connection:
            return next((found[0] for found in _groups(connection, wanted).values()), None)

    def groups(self, scanner_id: int) -> list[Group]:
        """Return the protocol groups of a scanner, the busiest first."""
        wanted = (s.groups.c.scanner_id == scanner_id) & (s.groups.c.total > 0)
        with self._db.read() as connection:
            return _groups(connection, wanted).get(scanner_id, [])

    def chart(
        self,
        group: Group,
        quantity: str = SCORE,
        *,
        points: int = 300,
        until: dt.datetime | None = None,
        axis: TimeAxis = TimeAxis.ACQUIRED,
    ) -> Chart | None:
        """Return the latest points of one quantity (up to ``until``); None if the group has no such quantity."""
        with self._db.read() as connection:
            chosen = _quantity(connection, quantity)
            if chosen is None:
                return None
            rows = _latest(connection, group.group_id, points, until, axis)
            baselines = Baselines(connection, group.group_id, self._rules)
            opened = MeasuredRows(rows)
            measured = measured_of(opened, chosen.quantity_id, baselines.size_id)
            known = baselines.of(chosen.quantity_id, chosen.name)
            here = _quantities(connection, set(opened.found) | {chosen.quantity_id})
        return self._drawn(group, chosen, rows, measured, known, here, axis)

    def _drawn(
        self,
        group: Group,
        quantity: Quantity,
        rows: Sequence[Any],
        measured: Measured,
        known: Baseline | TooFew,
        quantities: tuple[Quantity, ...],
        axis: TimeAxis,
    ) -> Chart:
        baseline = known if isinstance(known, Baseline) else None
        acquired = [rows[position].acquired_at for position in measured.positions]
        scored = [rows[position].at for position in measured.positions]
        late = late_arrivals(acquired, scored)
        if axis is TimeAxis.SCORED:
            late[:] = False
        judged = judge(measured, acquired, late, baseline, self._rules)
        drawn = tuple(
            _point(rows[position], float(value), float(adjusted), bool(is_late))
            for position, value, adjusted, is_late in zip(
                measured.positions, measured.values, judged.adjusted, late, strict=True
            )
        )
        too_few = known if isinstance(known, TooFew) else None
        return Chart(group, quantity, drawn, baseline, quantities, judged, too_few, axis)

    def quantity_number(self, name: str) -> int | None:
        """Return the number of a quantity, None if nothing of that name was measured."""
        with self._db.read() as connection:
            found = _quantity(connection, name)
        return None if found is None else found.quantity_id

    def quantity_with_values(self, group: Group) -> str:
        """Return the score where the latest series of a group have one, else the first quantity that they have."""
        with self._db.read() as connection:
            rows = _latest(connection, group.group_id, _LOOKED_AT, None, TimeAxis.ACQUIRED)
            numbers = set(MeasuredRows(rows).found)
            names = [item.name for item in _quantities(connection, numbers - {SCORE_ID})[1:]]
        return SCORE if SCORE_ID in numbers or not names else names[0]

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
            names = {item.scanner_id: item for item in _scanners(connection, read_names(connection))}
            for other in connection.execute(sa.select(s.groups).where(alike)).all():
                spread = _spread(connection, other.group_id, quantity_id, points)
                # Series of a scanner that was merged a moment ago are still on their way.
                if spread is not None and other.scanner_id in names:
                    found.append((names[other.scanner_id], spread))
        return sorted(found, key=lambda pair: (pair[0].scanner_id != group.scanner_id, pair[0].name))

    def alarms(
        self, scanner_id: int | None = None, *, only_open: bool = True, notes: bool = False, limit: int = 100
    ) -> list[Alarm]:
        """Return drift alarms by cause, the latest first; with ``notes`` improvements too."""
        join = s.alarms.join(s.groups, s.groups.c.group_id == s.alarms.c.group_id)
        # The score is not a measurement and has no row among the quantities.
        join = join.outerjoin(s.quantities, s.quantities.c.name == s.alarms.c.quantity)
        words = sa.func.coalesce(s.quantities.c.meaning, s.alarms.c.quantity).label("meaning")
        query = sa.select(s.alarms, s.groups.c.kind, s.groups.c.protocol, words).select_from(join)
        query = query.where(s.alarms.c.cause_id.is_(None))
        if scanner_id is not None:
            query = query.where(s.groups.c.scanner_id == scanner_id)
        if only_open:
            query = query.where(s.alarms.c.ended_at.is_(None))
        if not notes:
            query = query.where(sa.func.coalesce(s.alarms.c.improvement, sa.false()).is_(sa.false()))
        with self._db.read() as connection:
            rows = connection.execute(query.order_by(s.alarms.c.alarm_id.desc()).limit(limit)).all()
            others = _others(connection, [row.alarm_id for row in rows])
        return [_alarm(row, others.get(row.alarm_id, ())) for row in rows]

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
            baselines = Baselines(connection, group.group_id, self._rules)
            found = baselines.of_period(chosen.quantity_id, quantity, first_day, last_day, now)
            if found is None:
                raise Permanent("this period holds fewer than 20 values; choose a longer one")
            limits, scale = found
            numbers = {"centre": limits.centre, "sigma": limits.sigma, "total": limits.count}
            days = {"first_day": first_day, "last_day": last_day}
            _add_baseline(connection, group.group_id, quantity, {**days, **numbers}, reason, author, now)
        return Baseline(limits, scale, first_day, last_day, reason, author, now)

    def accept_change(self, group: Group, from_at: dt.datetime, *, reason: str, author: str) -> None:
        """Judge every quantity of a group by its first series from a time on: what changed then was meant."""
        with self._db.write() as connection:
            values = {"from_at": from_at}
            _add_baseline(connection, group.group_id, EVERY_QUANTITY, values, reason, author, self._clock())

    def accept_event(self, scanner_id: int, from_at: dt.datetime, *, reason: str, author: str) -> int:
        """Judge every group of a scanner by its first series from a service event on; return how many groups."""
        groups = self.groups(scanner_id)
        with self._db.write() as connection:
            for group in groups:
                values = {"from_at": from_at}
                _add_baseline(connection, group.group_id, EVERY_QUANTITY, values, reason, author, self._clock())
        return len(groups)

    def automatic_baseline(self, group: Group, quantity: str, *, reason: str, author: str) -> None:
        """Judge a chart by its first points again."""
        with self._db.write() as connection:
            _add_baseline(connection, group.group_id, quantity, {}, reason, author, self._clock())

    def baselines(self, group_id: int, quantity: str) -> list[Any]:
        """Return every choice that was made for a chart, the latest first, as rows."""
        mine = (s.baselines.c.group_id == group_id) & s.baselines.c.quantity.in_((quantity, EVERY_QUANTITY))
        with self._db.read() as connection:
            query = sa.select(s.baselines).where(mine).order_by(s.baselines.c.baseline_id.desc())
            return list(connection.execute(query).all())

    def _collected(
        self, connection: sa.Connection, groups: Mapping[int, Sequence[Group]]
    ) -> dict[int, tuple[int, int]]:
        """Return values and need of the group that is next to a baseline, of scanners of which no group has one."""
        needed, choice = self._rules.baseline_points, s.baselines.c
        query = sa.select(choice.group_id, choice.from_at).where(choice.quantity == EVERY_QUANTITY)
        rows = connection.execute(query.order_by(choice.baseline_id))
        since: dict[int, dt.datetime] = {row.group_id: row.from_at for row in rows}
        found = {}
        for scanner_id, mine in groups.items():
            most = max(_count_since(connection, group, since.get(group.group_id), needed) for group in mine[:_BUSIEST])
            if most < needed:
                found[scanner_id] = (most, needed)
        return found

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
        plain = ("group_id", "scanner_id", "kind", "protocol", "last_at", "last_score")
        group = Group(
            count=row.total,
            **{name: getattr(row, name) for name in plain},
            protocol_name=row.protocol_name or row.protocol,
            kernel=row.kernel or "unknown",
            reconstruction=row.reconstruction or "unknown",
            thickness=row.thickness or "",
        )
        found.setdefault(group.scanner_id, []).append(group)
    return found


def _count_since(connection: sa.Connection, group: Group, since: dt.datetime | None, limit: int) -> int:
    """Count the series of a group from an accepted change on, up to a limit."""
    if since is None:
        return group.count
    point = s.points.c
    first = sa.select(point.result_id).where((point.group_id == group.group_id) & (point.acquired_at >= since))
    return int(connection.execute(sa.select(sa.func.count()).select_from(first.limit(limit).subquery())).scalar_one())


def _card(
    scanner: Scanner,
    groups: Sequence[Group],
    alarms: tuple[int, int],
    spark: dict[int, list[tuple[dt.date, float]]],
    grades: Mapping[str, int],
    collected: tuple[int, int] | None,
) -> Card:
    latest = max(groups, key=lambda group: group.last_at, default=None)
    return Card(
        scanner=scanner,
        groups=tuple(groups),
        count=sum(group.count for group in groups),
        last_score=None if latest is None else latest.last_score,
        alarms=alarms[0],
        spark=tuple(spark.get(groups[0].group_id, ())) if groups else (),
        notes=alarms[1],
        grades=grades,
        collected=collected,
    )


def _alarm_counts() -> sa.Select[Any]:
    """Select for each scanner its open drift alarms and its open improvements, by cause."""
    join = s.alarms.join(s.groups, s.groups.c.group_id == s.alarms.c.group_id)
    better = sa.func.sum(sa.case((s.alarms.c.improvement, 1), else_=0))
    count = sa.select(s.groups.c.scanner_id, sa.func.count() - better, better).select_from(join)
    causes = s.alarms.c.ended_at.is_(None) & s.alarms.c.cause_id.is_(None)
    return count.where(causes).group_by(s.groups.c.scanner_id)


def _others(connection: sa.Connection, causes: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """Return in words what drifted with each cause."""
    join = s.alarms.outerjoin(s.quantities, s.quantities.c.name == s.alarms.c.quantity)
    words = sa.func.coalesce(s.quantities.c.meaning, s.alarms.c.quantity)
    query = sa.select(s.alarms.c.cause_id, words).select_from(join).where(s.alarms.c.cause_id.in_(list(causes)))
    found: dict[int, tuple[str, ...]] = {}
    for cause, meaning in connection.execute(query.order_by(s.alarms.c.began_at, s.alarms.c.alarm_id)):
        found[cause] = (*found.get(cause, ()), *(() if meaning in found.get(cause, ()) else (meaning,)))
    return found


def _alarm(row: Any, others: tuple[str, ...]) -> Alarm:
    plain = (
        "alarm_id", "group_id", "kind", "protocol", "quantity", "meaning", "side", "shift_sigma", "began_at",
        "raised_at", "ended_at",
    )  # fmt: skip
    values = {name: getattr(row, name) for name in plain}
    return Alarm(**values, sentence=row.sentence or "", others=others, improvement=bool(row.improvement))


def _grades(connection: sa.Connection, names: Names, since: dt.datetime) -> dict[int, dict[str, int]]:
    """Count the latest versions of series acquired since a day, by scanner and grade."""
    row, facet = log_rows.c, log_facets.c
    recent = (row.acquired_on >= since.date()) & (row.latest == 1)
    counted = sa.select(row.facet_id, row.grade, sa.func.count().label("rows")).where(recent)
    counted_by = counted.group_by(row.facet_id, row.grade).subquery()
    query = sa.select(facet.scanner_id, counted_by.c.grade, counted_by.c.rows)
    query = query.join(counted_by, counted_by.c.facet_id == facet.facet_id).where(facet.scanner_id.is_not(None))
    words = {code: "" if grade is None else grade.value for grade, code in GRADE_CODES.items()}
    found: dict[int, dict[str, int]] = {}
    for scanner_id, code, count in connection.execute(query):
        mine = found.setdefault(names.root(scanner_id), {})
        mine[words[code]] = mine.get(words[code], 0) + count
    return found


def _latest(
    connection: sa.Connection, group_id: int, points: int, until: dt.datetime | None, axis: TimeAxis
) -> list[Any]:
    point = s.points.c
    time = point.acquired_at if axis is TimeAxis.ACQUIRED else point.at
    mine = point.group_id == group_id
    wanted = mine if until is None else mine & (time < until)
    latest = (
        sa.select(point.result_id, point.at, point.acquired_at, point.score, point.measured)
        .where(wanted)
        .order_by(time.desc(), point.result_id.desc())
        .limit(points)
        .subquery()
    )
    names = (t.results.c.series_instance_uid, t.results.c.version)
    joined = latest.join(t.results, t.results.c.result_id == latest.c.result_id)
    ordered = latest.c.acquired_at if axis is TimeAxis.ACQUIRED else latest.c.at
    return list(connection.execute(sa.select(latest, *names).select_from(joined).order_by(ordered, latest.c.result_id)))


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


def _point(row: Any, value: float, adjusted: float, late: bool) -> Point:
    shown = adjusted if math.isfinite(adjusted) else None
    return Point(row.series_instance_uid, row.version, row.at, value, row.acquired_at, shown, late)


def _scanners(connection: sa.Connection, names: Names) -> list[Scanner]:
    """Return the scanners that stand for themselves, by name, each with those that are shown as it."""
    parts: dict[int, list[int]] = {}
    for number, root in names.shown_as.items():
        parts.setdefault(root, []).append(number)
    rows = {row.scanner_id: row for row in connection.execute(sa.select(s.scanners))}
    found = []
    for number, row in rows.items():
        if number in names.shown_as:
            continue
        others = tuple(sorted(parts.get(number, ())))
        last = max([row.last_at, *(rows[other].last_at for other in others)])
        found.append(replace(_scanner(row, names.scanners[number]), parts=others, last_at=last))
    return sorted(found, key=lambda item: (item.name.casefold(), item.scanner_id))


def _scanner(row: Any, name: str) -> Scanner:
    plain = ("scanner_id", "manufacturer", "model", "station", "serial", "institution", "first_at", "last_at")
    return Scanner(name=name, **{item: getattr(row, item) for item in plain})
