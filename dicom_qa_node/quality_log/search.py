"""Searches of the log page: filters, pages by key, counts that end early, at a million rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.log_tables import (
    GRADE_CODES,
    PART_CODES,
    SEVERITY_CODES,
    DeliveryMark,
    ReviewMark,
    log_facets,
    log_findings,
    log_rows,
)
from dicom_qa_node.db.phantom_tables import QcMark
from dicom_qa_node.db.tables import series_header_of
from dicom_qa_node.domain.results import RatedPartKind
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.domain.uids import LARGEST_ID
from dicom_qa_node.quality_log.filters import (
    Cursor,
    Filters,
    LogChoices,
    LogOrder,
    LogPage,
    LogQuery,
    LogRow,
    filters_of,
)

__all__ = ["MOST_COUNTED", "LogSearch", "lines", "result_ids"]

MOST_COUNTED = 10_000
_BATCH = 500
_KEYS = {
    LogOrder.TIME: "scored_at",
    LogOrder.ACQUIRED: "acquired_on",
    LogOrder.SCORE: "score",
    LogOrder.DEVIATION: "deviation",
}


class LogSearch:
    """Reads the log page's rows."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def page(self, chosen: LogQuery, cursor: Cursor | None = None, limit: int = 50) -> LogPage:
        """Return one page, with the places of its neighbours and how many rows there are in all."""
        with self._db.read() as connection:
            filters = filters_of(connection, chosen)
            wanted = limit + 1 if cursor else MOST_COUNTED + 1
            found = result_ids(connection, chosen, filters, cursor, wanted)
            count = len(found)
            if cursor:
                counted = cursor.count
                count = (
                    len(result_ids(connection, chosen, filters, None, MOST_COUNTED + 1)) if counted is None else counted
                )
            shown = found[:limit]
            rows = _ordered(lines(connection, shown), shown)
        beyond = len(found) > limit
        if cursor and cursor.back:
            rows.reverse()
        return LogPage(
            rows=tuple(rows),
            newer=_cursor(chosen, rows[0], back=True, count=count) if rows and _has_before(cursor, beyond) else None,
            older=_cursor(chosen, rows[-1], back=False, count=count) if rows and _has_after(cursor, beyond) else None,
            count=min(count, MOST_COUNTED),
            more=count > MOST_COUNTED,
        )

    def stream(self, chosen: LogQuery) -> Iterator[LogRow]:
        """Yield every row in order, read in pages, so that an export needs no memory."""
        cursor: Cursor | None = None
        while True:
            with self._db.read() as connection:
                filters = filters_of(connection, chosen)
                shown = result_ids(connection, chosen, filters, cursor, _BATCH)
                rows = _ordered(lines(connection, shown), shown)
            yield from rows
            if len(shown) < _BATCH or not rows:
                return
            cursor = _cursor(chosen, rows[-1], back=False)

    def newer(self, chosen: LogQuery, than: int, limit: int = 50) -> tuple[LogRow, ...]:
        """Return the rows written after the result ``than`` that a page would show, the latest first."""
        with self._db.read() as connection:
            filters = filters_of(connection, chosen)
            r = log_rows.c
            query = sa.select(r.result_id).where(r.result_id > than, *filters.conditions, *filters.facet_conditions())
            shown = list(connection.execute(query.order_by(r.result_id.desc()).limit(limit)).scalars())
            return tuple(_ordered(lines(connection, shown), shown))

    def rows(self, result_ids: Sequence[int]) -> tuple[LogRow, ...]:
        """Return these rows as they stand now, in the order given."""
        with self._db.read() as connection:
            return tuple(_ordered(lines(connection, list(result_ids)), result_ids))

    def newest(self) -> int:
        """Return the number of the latest result, 0 while there is none."""
        with self._db.read() as connection:
            return int(connection.execute(sa.select(sa.func.max(log_rows.c.result_id))).scalar_one() or 0)

    def versions(self, series_instance_uid: str) -> tuple[LogRow, ...]:
        """Return every scored version of a series, the latest first."""
        r = log_rows.c
        query = sa.select(r.result_id).where(r.series_instance_uid == series_instance_uid)
        with self._db.read() as connection:
            shown = list(connection.execute(query.order_by(r.version.desc())).scalars())
            return tuple(_ordered(lines(connection, shown), shown))

    def history(self, result_id: int, limit: int = 200) -> list[tuple[int, dt.datetime, str]]:
        """Return the scanner's latest results of the same protocol up to this one, oldest first.

        Each is its number, its time and its payload (`records.result_from_json`); replaced versions are left out.
        """
        r = log_rows.c
        with self._db.read() as connection:
            own = connection.execute(sa.select(r.facet_id, r.scored_at).where(r.result_id == result_id)).one_or_none()
            if own is None:
                return []
            query = sa.select(r.result_id, r.scored_at, t.results.c.payload).join(
                t.results, t.results.c.result_id == r.result_id
            )
            same = (r.facet_id == own.facet_id) & (r.scored_at <= own.scored_at)
            query = query.where(same & ((r.latest == 1) | (r.result_id == result_id)))
            found = connection.execute(query.order_by(r.scored_at.desc(), r.result_id.desc()).limit(limit)).all()
        return [(row.result_id, row.scored_at, row.payload) for row in reversed(found)]

    def choices(self) -> LogChoices:
        """Return what can be filtered by; read from the facets, never from the rows."""
        f = log_facets.c
        with self._db.read() as connection:
            scanner = sa.func.coalesce(f.shown_scanner, f.scanner)
            protocol = sa.func.coalesce(f.shown_protocol, f.protocol)
            query = sa.select(f.site, scanner, protocol, f.modality, f.kind, f.body_part).distinct()
            found = connection.execute(query).all()
            keys = list(connection.execute(sa.select(log_findings.c.key).order_by(log_findings.c.key)).scalars())

        def column(number: int) -> tuple[str, ...]:
            return tuple(sorted({row[number] for row in found} - {""}))

        return LogChoices(column(0), column(1), column(2), column(3), column(4), column(5), tuple(keys))


def result_ids(
    connection: sa.Connection, chosen: LogQuery, filters: Filters, cursor: Cursor | None, limit: int
) -> list[int]:
    """Return the numbers of the next rows in order; those without a key follow all that have one."""
    if filters.nothing:
        return []
    back = bool(cursor and cursor.back)
    phases = [False, True] if chosen.order is not LogOrder.TIME else [False]
    if back:
        phases.reverse()
    found: list[int] = []
    for keyless in phases:
        if cursor is not None and _passed(cursor, keyless):
            continue
        here = cursor if cursor is not None and (cursor.key is None) == keyless else None
        query = _ordered_query(chosen, filters, here, keyless=keyless, down=chosen.descending != back)
        found += connection.execute(query.limit(limit - len(found))).scalars()
        if len(found) >= limit:
            break
    return found


def _passed(cursor: Cursor, keyless: bool) -> bool:
    """Whether the page lies beyond this part of the order: after all keys, or before the rows without one."""
    return keyless and cursor.key is not None if cursor.back else not keyless and cursor.key is None


def _ordered_query(
    chosen: LogQuery, filters: Filters, cursor: Cursor | None, *, keyless: bool, down: bool
) -> sa.Select[Any]:
    r = log_rows.c
    key = r[_KEYS[chosen.order]]
    conditions = [*filters.conditions]
    if chosen.order is not LogOrder.TIME:
        conditions.append(key.is_(None) if keyless else key.is_not(None))
    if filters.driver is not None:
        rare = sa.select(key.label("key"), r.result_id).where(filters.driver, *conditions)
        part = rare.cte("rare").prefix_with("MATERIALIZED")
        # The place is looked for among these few, or it would draw SQLite to the index of the order.
        order = [part.c.result_id] if keyless else [part.c.key, part.c.result_id]
        query = sa.select(part.c.result_id)
    else:
        order = [r.result_id] if keyless else [key, r.result_id]
        query = sa.select(r.result_id).where(*conditions, *filters.facet_conditions())
    if cursor is not None:
        query = query.where(_beyond(chosen, cursor, order, down=down))
    return query.order_by(*(c.desc() if down else c.asc() for c in order))


def _beyond(
    chosen: LogQuery, cursor: Cursor, order: Sequence[sa.ColumnElement[Any]], *, down: bool
) -> sa.ColumnElement[bool]:
    number = max(0, min(cursor.result_id, LARGEST_ID))  # a foreign cursor may name any
    value = (number,) if len(order) == 1 else (_typed(chosen.order, cursor.key), number)
    here = sa.tuple_(*order)
    there = sa.tuple_(*value, types=[column.type for column in order])
    return here < there if down else here > there


def _typed(order: LogOrder, key: float | str | None) -> object:
    if order is LogOrder.ACQUIRED:
        return dt.date.fromisoformat(str(key)[:10])
    return dt.datetime.fromisoformat(str(key)) if order is LogOrder.TIME else key


def _cursor(chosen: LogQuery, row: LogRow, *, back: bool, count: int | None = None) -> Cursor:
    keys: dict[LogOrder, float | str | None] = {
        LogOrder.TIME: row.scored_at.isoformat(),
        LogOrder.ACQUIRED: None if row.acquired_on is None else row.acquired_on.isoformat(),
        LogOrder.SCORE: row.score,
        LogOrder.DEVIATION: row.deviation,
    }
    return Cursor(keys[chosen.order], row.result_id, back, count)


def _has_before(cursor: Cursor | None, beyond: bool) -> bool:
    return cursor is not None and (beyond if cursor.back else True)


def _has_after(cursor: Cursor | None, beyond: bool) -> bool:
    return True if cursor is not None and cursor.back else beyond


def _ordered(rows: Sequence[LogRow], result_ids: Sequence[int]) -> list[LogRow]:
    by_id = {row.result_id: row for row in rows}
    return [by_id[number] for number in result_ids if number in by_id]


_PARTS = {code: kind for kind, code in PART_CODES.items()}
_GRADES = {code: grade for grade, code in GRADE_CODES.items()}
_SEVERITIES = {code: severity for severity, code in SEVERITY_CODES.items()}


def lines(connection: sa.Connection, result_ids: Sequence[int]) -> list[LogRow]:
    """Read the lines of these results, in no order."""
    if not result_ids:
        return []
    keys = {row.bit: row.key for row in connection.execute(sa.select(log_findings))}
    own = [column for column in log_rows.c if column.name not in ("series_instance_uid", "version")]
    facts = [t.series.c[name] for name in t.HEADER_COLUMNS]
    query = (
        sa.select(
            *own, *facts, t.results.c.why, t.series.c.state, log_rows.c.version.label("row_version"),
            sa.func.coalesce(log_facets.c.shown_scanner, log_facets.c.scanner).label("scanner"),
            log_facets.c.shown_protocol, log_facets.c.kind,
        )
        .join(t.series, t.series.c.series_instance_uid == log_rows.c.series_instance_uid)
        .join(log_facets, log_facets.c.facet_id == log_rows.c.facet_id)
        .join(t.results, t.results.c.result_id == log_rows.c.result_id)
        .where(log_rows.c.result_id.in_(list(result_ids)))
    )  # fmt: skip
    return [_line(row, keys) for row in connection.execute(query)]


def _line(row: Any, keys: dict[int, str]) -> LogRow:
    facts = series_header_of(row)
    return LogRow(
        result_id=row.result_id,
        facts=replace(facts, protocol_name=row.shown_protocol) if row.shown_protocol else facts,
        scanner=row.scanner,
        version=row.row_version,
        latest=bool(row.latest),
        state=SeriesState(row.state),
        scored_at=row.scored_at,
        acquired_on=row.acquired_on,
        kind=row.kind,
        score=row.score,
        interval=None if row.low is None else (row.low, row.high),
        grade=_GRADES[row.grade],
        grade_low=_GRADES[row.grade_low],
        decided_by=_PARTS[row.decided_by],
        part_scores={kind: getattr(row, f"{kind.value}_score") for kind in RatedPartKind},
        why=row.why,
        severity=_SEVERITIES[row.severity],
        findings=tuple(key for bit, key in sorted(keys.items()) if row.findings >> bit & 1),
        deviation=row.deviation,
        worst_slice=row.worst_slice,
        delivery=DeliveryMark(row.delivery),
        review=ReviewMark(row.review),
        qc=QcMark(row.qc or 0).outcome,
    )
