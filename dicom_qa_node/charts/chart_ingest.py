"""Takes each scored version once into the control charts, the counters and the alerts, in one transaction per batch.

What is derived can be made again from ``results`` alone: after a kill at any moment the next run goes on where the
last committed one stopped, and nothing is counted twice. Runs in the role ``schedule``; scoring never waits for it.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.charts.alerts import NewAlert, add_alerts
from dicom_qa_node.charts.arrival_order import monday_of
from dicom_qa_node.charts.control_charts import distribution
from dicom_qa_node.charts.counters import Counters
from dicom_qa_node.charts.phantom_ingest import add_phantom_run, forget_phantom_runs, withdraw_phantom_runs
from dicom_qa_node.charts.scanner_registry import ScannerRegistry
from dicom_qa_node.charts.strata import stratum_of
from dicom_qa_node.db import chart_tables as s
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.chart_tables import pack, unpack
from dicom_qa_node.db.engine import Database, insert_ignore
from dicom_qa_node.dicom_io.date_times import parse_date, parse_time
from dicom_qa_node.domain.acquisition_parameters import acquired_at
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.results import Grade, SeriesResult, part_measurements, result_from_json

__all__ = ["ChartIngest", "NewResult"]

#: Numbers are given before transactions end: a lower one may appear after a higher one, but not long after.
_LOOK_BACK = 1000


@dataclass(frozen=True, slots=True)
class NewResult:
    """What the alert rules see of a freshly scored version; ``findings`` are pairs of key and severity."""

    series_instance_uid: str
    version: int
    scored_at: dt.datetime
    kind: str
    protocol: str
    scanner: str
    scanner_id: int
    score: float | None
    grade: Grade | None
    findings: tuple[tuple[str, str], ...]
    why: str = ""
    acquired_at: dt.datetime | None = None


AlertRules = Callable[[Sequence[NewResult]], Sequence[NewAlert]]


class ChartIngest:
    """Keeps the derived tables up to date.

    Parameters
    ----------
    clock
        Returns the current UTC time.
    zone
        The time zone of scanners whose headers name no offset from UTC.
    """

    def __init__(
        self, database: Database, clock: Callable[[], dt.datetime] = utc_now, zone: dt.tzinfo = dt.UTC
    ) -> None:
        self._db, self._clock, self._zone = database, clock, zone

    def take_in(self, judge: AlertRules = lambda _new: (), limit: int = 2000) -> int:
        """Take in the next results, oldest first, with the alerts that ``judge`` makes of them; return how many."""
        with self._db.read() as connection:
            if not connection.execute(_untaken(1)).first():
                return 0
        with self._db.write() as connection:
            rows = connection.execute(_untaken(limit)).all()
            batch = _Batch(connection, rows, self._zone)
            new = [found for row in rows if (found := batch.add(row)) is not None]
            batch.flush()
            add_alerts(connection, judge(new), self._clock())
        return len(rows)

    def refresh_weeks(self, limit: int = 100) -> int:
        """Compute the percentiles of weeks whose points changed; return how many weeks."""
        query = sa.select(s.stale_weeks).order_by(s.stale_weeks.c.monday, s.stale_weeks.c.group_id).limit(limit)
        with self._db.read() as connection:
            stale = connection.execute(query).all()
        for row in stale:
            with self._db.write() as connection:
                _refresh_week(connection, row.group_id, row.monday)
        return len(stale)

    def forget(self) -> None:
        """Empty everything that is derived, so that `take_in` makes it again; what people wrote stays."""
        with self._db.write() as connection:
            forget_phantom_runs(connection)
            for table in (s.weeks, s.stale_weeks, s.points, s.counters):
                connection.execute(table.delete())
            connection.execute(s.groups.update().values(total=0, judged=False, last_score=None))


class _Batch:
    """The changes of one transaction, gathered and then written in a few statements."""

    def __init__(self, connection: sa.Connection, rows: Sequence[sa.Row[Any]], zone: dt.tzinfo) -> None:
        self._connection, self._zone = connection, zone
        self._fleet = ScannerRegistry(connection)
        self._counters = Counters(connection, [row.series_instance_uid for row in rows if row.version == 1])
        self._latest = _latest_versions(connection, {row.series_instance_uid for row in rows})
        self._points: list[dict[str, Any]] = []
        self._stale: set[tuple[int, dt.date]] = set()
        self._scanners: dict[int, int] = {}

    def add(self, row: sa.Row[Any]) -> NewResult | None:
        """Take one result in; None for a QC phantom, which has no place in clinical charts and alerts."""
        result = result_from_json(row.payload)
        scanner = self._scanners[row.result_id] = self._fleet.scanner(row)
        if result.qc_phantom is not None:
            self._add_phantom(row, result, scanner)
            return None
        protocol = row.protocol_name or row.body_part_examined
        stratum = stratum_of(row.kind, protocol, result.measurements, result.acquisition)
        source = self._fleet.group(scanner, row.kind, stratum)
        group = self._fleet.shown(source)
        latest, first_at = self._latest[row.series_instance_uid]
        # A series that is scored again keeps its place in time.
        at = first_at or row.scored_at
        counts = row.version == latest
        if counts and row.version > 1:
            self._replace_earlier(row.series_instance_uid, row.version)
            withdraw_phantom_runs(self._connection, row.series_instance_uid, row.version)
        taken = acquired_at(result.acquisition, _study_time(row), at, self._zone)
        if counts:
            self._fleet.note(group, at, row.score, row.model)
            self._stale.add((group, monday_of(taken)))
        self._points.append(
            {
                "result_id": row.result_id,
                "group_id": group if counts else None,
                "source_group_id": source,
                "at": at,
                "acquired_at": taken,
                "score": row.score,
                "measured": self._measured(result),
            }
        )
        self._counters.count(row, result)
        shown = self._fleet.protocol_shown(stratum.protocol)
        return _new_result(row, result, scanner, self._fleet.name_of(scanner), shown, taken)

    def _add_phantom(self, row: sa.Row[Any], result: SeriesResult, scanner: int) -> None:
        latest, _ = self._latest[row.series_instance_uid]
        if row.version == latest and row.version > 1:
            self._replace_earlier(row.series_instance_uid, row.version)
        taken = acquired_at(result.acquisition, _study_time(row), row.scored_at, self._zone)
        local = taken.astimezone(self._zone)
        add_phantom_run(self._connection, row, result, scanner, local, latest=row.version == latest)
        nowhere = {"group_id": None, "source_group_id": None, "score": None, "measured": b""}
        self._points.append({"result_id": row.result_id, "at": row.scored_at, "acquired_at": taken} | nowhere)
        self._counters.count(row, result)

    def flush(self) -> None:
        """Write what was gathered."""
        insert_ignore(self._connection, s.points, self._points)
        _mark_stale(self._connection, self._stale)
        self._fleet.flush()
        self._fleet.link_facets(self._scanners)
        self._counters.flush()

    def _measured(self, result: SeriesResult) -> bytes:
        every = (*result.measurements, *part_measurements(result))
        found = {m: m.value for m in every if m.value is not None and math.isfinite(m.value)}
        return pack({self._fleet.quantity(m): value for m, value in found.items()})

    def _replace_earlier(self, uid: str, version: int) -> None:
        # An earlier version of the same batch has not counted: `_latest` knew of this one.
        wanted = s.points.c.result_id.in_(self._ids_below(uid, version)) & s.points.c.group_id.is_not(None)
        query = sa.select(s.points.c.group_id, s.points.c.acquired_at).where(wanted)
        for row in self._connection.execute(query).all():
            self._fleet.unnote(row.group_id)
            self._stale.add((row.group_id, monday_of(row.acquired_at)))
        self._connection.execute(s.points.update().where(wanted).values(group_id=None))

    def _ids_below(self, uid: str, version: int) -> list[int]:
        query = sa.select(t.results.c.result_id).where(
            (t.results.c.series_instance_uid == uid) & (t.results.c.version < version)
        )
        return list(self._connection.execute(query).scalars())


def _study_time(row: sa.Row[Any]) -> dt.datetime | None:
    day = parse_date(row.study_date)
    return None if day is None else dt.datetime.combine(day, parse_time(row.study_time) or dt.time())


def _untaken(limit: int) -> sa.Select[Any]:
    result = t.results.c
    newest = sa.select(sa.func.coalesce(sa.func.max(s.points.c.result_id), 0)).scalar_subquery()
    taken = sa.exists().where(s.points.c.result_id == result.result_id)
    facts = [t.series.c[name] for name in (*_FACTS, *_SCANNED, "received")]
    columns = [result[name] for name in _RESULT]
    return (
        sa.select(*columns, *facts, t.series.c.last_received_at)
        .join(t.series, t.series.c.series_instance_uid == result.series_instance_uid)
        .where((result.result_id > newest - _LOOK_BACK) & ~taken)
        .order_by(result.result_id)
        .limit(limit)
    )


_RESULT = (
    "result_id",
    "series_instance_uid",
    "version",
    "scored_at",
    "kind",
    "score",
    "grade",
    "scanner",
    "model",
    "payload",
)
_SCANNED = ("protocol_name", "body_part_examined", "study_date", "study_time")
_FACTS = ("manufacturer", "manufacturer_model_name", "station_name", "device_serial_number", "institution_name")


def _latest_versions(connection: sa.Connection, uids: set[str]) -> dict[str, tuple[int, dt.datetime | None]]:
    result = t.results.c
    query = (
        sa.select(result.series_instance_uid, sa.func.max(result.version), sa.func.min(result.scored_at))
        .where(result.series_instance_uid.in_(list(uids)))
        .group_by(result.series_instance_uid)
    )
    return {uid: (version, first_at) for uid, version, first_at in connection.execute(query)}


def _mark_stale(connection: sa.Connection, stale: Iterable[tuple[int, dt.date]]) -> None:
    rows = [{"group_id": group_id, "monday": monday} for group_id, monday in sorted(stale)]
    insert_ignore(connection, s.stale_weeks, rows)


def _refresh_week(connection: sa.Connection, group_id: int, monday: dt.date) -> None:
    begin = dt.datetime.combine(monday, dt.time(), dt.UTC)
    point = s.points.c
    inside = (point.group_id == group_id) & (point.acquired_at >= begin)
    inside &= point.acquired_at < begin + dt.timedelta(days=7)
    rows = connection.execute(sa.select(point.measured, point.score).where(inside)).all()
    same = (s.weeks.c.group_id == group_id) & (s.weeks.c.monday == monday)
    connection.execute(s.weeks.delete().where(same))
    found = unpack([row.measured for row in rows], [row.score for row in rows])
    fresh: list[dict[str, Any]] = []
    for quantity_id, (_, values) in found.items():
        spread = distribution(values)
        if spread is not None:
            key = {"group_id": group_id, "quantity_id": quantity_id, "monday": monday}
            numbers = {name: getattr(spread, name) for name in spread.__slots__ if name != "count"}
            fresh.append(key | numbers | {"total": spread.count})
    if fresh:
        connection.execute(s.weeks.insert(), fresh)
    stale = (s.stale_weeks.c.group_id == group_id) & (s.stale_weeks.c.monday == monday)
    connection.execute(s.stale_weeks.delete().where(stale))


def _new_result(
    row: sa.Row[Any], result: SeriesResult, scanner_id: int, scanner: str, protocol: str, taken: dt.datetime
) -> NewResult:
    return NewResult(
        series_instance_uid=row.series_instance_uid,
        version=row.version,
        scored_at=row.scored_at,
        acquired_at=taken,
        kind=row.kind,
        protocol=protocol,
        scanner=scanner,
        scanner_id=scanner_id,
        score=row.score,
        grade=None if row.grade is None else Grade(row.grade),
        findings=tuple((finding.key, finding.severity.value) for finding in result.findings),
        why=result.why,
    )
