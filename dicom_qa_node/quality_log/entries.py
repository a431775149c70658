"""The quality log: every scored version of every series, filtered and paged."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.tables import series_header_of
from dicom_qa_node.domain.delivery import DocumentKind
from dicom_qa_node.domain.results import Grade, LogEntry, result_from_json
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.quality_log.filters import LogQuery, filters_of
from dicom_qa_node.quality_log.search import LogSearch, result_ids

__all__ = ["LogFilter", "QualityLog"]

_BATCH = 500


@dataclass(frozen=True, slots=True)
class LogFilter:
    """What to show of the log; a field left at None does not filter."""

    since: dt.datetime | None = None
    until: dt.datetime | None = None
    scanner: str | None = None
    modality: str | None = None
    grade: Grade | None = None
    series_instance_uid: str | None = None
    study_instance_uid: str | None = None
    version: int | None = None

    def of_one(self) -> bool:
        """Whether it names a series, a study or a version."""
        return (self.series_instance_uid, self.study_instance_uid, self.version) != (None, None, None)


class QualityLog:
    """Reads the quality log."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def entries(self, chosen: LogFilter | None = None, limit: int = 100, offset: int = 0) -> list[LogEntry]:
        """Return log rows, the latest score first."""
        chosen = chosen or LogFilter()
        found: list[LogEntry] = []
        with self._db.read() as connection:
            for query in _pages(connection, chosen, limit, offset):
                rows = connection.execute(query).all()
                deliveries = _deliveries(connection, [row.report_uid for row in rows if row.report_uid])
                found += [_entry(row, deliveries) for row in rows]
        return found

    def chosen(self, query: LogQuery, limit: int | None = None) -> Iterator[LogEntry]:
        """Yield what the log page's filter selects, in its order, read in pages."""
        rows = LogSearch(self._db).stream(query)
        numbers = (row.result_id for row in islice(rows, limit))
        while page := list(islice(numbers, _BATCH)):
            with self._db.read() as connection:
                found = connection.execute(_query().where(t.results.c.result_id.in_(page))).all()
                deliveries = _deliveries(connection, [row.report_uid for row in found if row.report_uid])
            by_number = {row.result_id: row for row in found}
            yield from (_entry(by_number[number], deliveries) for number in page)

    def entry(self, series_instance_uid: str, version: int | None = None) -> LogEntry | None:
        """Return one scored version (None: the latest) or None."""
        found = self.entries(LogFilter(series_instance_uid=series_instance_uid, version=version), limit=1)
        return found[0] if found else None

    def count(self) -> int:
        """Return how many rows the log has."""
        with self._db.read() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(t.results)).scalar_one())


def _pages(connection: sa.Connection, chosen: LogFilter, limit: int, offset: int) -> Iterator[sa.Select[Any]]:
    """Yield the queries that together return what is wanted, in its order."""
    result = t.results.c
    query = _query().order_by(result.scored_at.desc(), result.result_id.desc())
    if chosen.of_one():
        yield query.where(*_conditions(chosen)).limit(limit).offset(offset)
        return
    # Which rows these are, the narrow rows of the log page know: no mixture of filters reads the results themselves.
    page = LogQuery(
        since=chosen.since, until=chosen.until, scanner=chosen.scanner, modality=chosen.modality,
        grades=() if chosen.grade is None else (chosen.grade,), all_versions=True,
    )  # fmt: skip
    shown = result_ids(connection, page, filters_of(connection, page), None, offset + limit)[offset:]
    for start in range(0, len(shown), _BATCH):
        yield query.where(result.result_id.in_(shown[start : start + _BATCH]))


def _query() -> sa.Select[tuple[Any, ...]]:
    result = t.results.c
    return (
        sa.select(
            t.series,
            result.result_id,
            result.version.label("result_version"),
            result.scored_at,
            result.payload,
            t.reports.c.sop_instance_uid.label("report_uid"),
        )
        .join(t.series, t.series.c.series_instance_uid == result.series_instance_uid)
        .outerjoin(
            t.reports,
            (t.reports.c.series_instance_uid == result.series_instance_uid)
            & (t.reports.c.version == result.version)
            & (t.reports.c.kind == DocumentKind.REPORT),
        )
    )


def _conditions(chosen: LogFilter) -> list[sa.ColumnElement[bool]]:
    result = t.results.c
    wanted: list[tuple[object, Callable[[], sa.ColumnElement[bool]]]] = [
        (chosen.since, lambda: result.scored_at >= chosen.since),
        (chosen.until, lambda: result.scored_at < chosen.until),
        (chosen.scanner, lambda: result.scanner == chosen.scanner),
        (chosen.modality, lambda: result.modality == chosen.modality),
        (chosen.grade, lambda: result.grade == chosen.grade),
        (chosen.series_instance_uid, lambda: result.series_instance_uid == chosen.series_instance_uid),
        (chosen.study_instance_uid, lambda: t.series.c.study_instance_uid == chosen.study_instance_uid),
        (chosen.version, lambda: result.version == chosen.version),
    ]
    return [condition() for value, condition in wanted if value is not None]


def _deliveries(connection: sa.Connection, reports: list[str]) -> dict[str, list[tuple[str, DeliveryState, str]]]:
    query = sa.select(t.outbox).where(t.outbox.c.report_uid.in_(reports)).order_by(t.outbox.c.delivery_id)
    found: dict[str, list[tuple[str, DeliveryState, str]]] = {}
    for row in connection.execute(query):
        found.setdefault(row.report_uid, []).append((row.target, DeliveryState(row.state), row.last_answer))
    return found


def _entry(row: sa.Row[tuple[Any, ...]], deliveries: dict[str, list[tuple[str, DeliveryState, str]]]) -> LogEntry:
    return LogEntry(
        facts=series_header_of(row),
        version=row.result_version,
        state=SeriesState(row.state),
        scored_at=row.scored_at,
        result=result_from_json(row.payload),
        report_uid=row.report_uid,
        deliveries=tuple(deliveries.get(row.report_uid, ())),
    )
