"""What the node holds and can hand out, level by level, for those who query: reports, and images if wished.

Everything is read in pages by key (``after`` the last one), so that thousands of matches are never in memory at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database, insert_ignore
from dicom_qa_node.domain.delivery import DocumentKind, ReportRef

__all__ = ["Catalogue", "HeldInstance", "HeldSeries", "Level", "Narrowing", "ReportHeader"]


class Level(Enum):
    """The levels that are grouped; the value is the column of their unique key."""

    PATIENT = "patient_id"
    STUDY = "study_instance_uid"
    SERIES = "series_instance_uid"


@dataclass(frozen=True, slots=True)
class ReportHeader:
    """What a report's file says about itself, kept for queries.

    ``facts`` maps element keywords to text; ``header`` is the data set in the DICOM JSON model without its content
    tree; ``layout`` numbers the way in which both were made: a row of another layout is made again.
    """

    sop_instance_uid: str
    layout: int
    patient_id: str
    study_instance_uid: str
    series_instance_uid: str
    accession_number: str
    study_date: str
    transfer_syntax_uid: str
    facts: Mapping[str, str]
    header: str


@dataclass(frozen=True, slots=True)
class HeldSeries:
    """One series with its patient and study; ``facts`` maps keywords to text, or column names for images."""

    patient_id: str
    study_instance_uid: str
    series_instance_uid: str
    facts: Mapping[str, str]
    sop_classes: tuple[str, ...]
    instances: int


@dataclass(frozen=True, slots=True)
class HeldInstance:
    """One instance; ``path`` is relative to the spool; ``header`` is that of `ReportHeader`, "" for an image."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    series_instance_uid: str
    path: str
    instance_number: int | None
    number_of_frames: int
    header: str = ""


@dataclass(frozen=True, slots=True)
class Narrowing:
    """Conditions that the database can check: ``equal`` maps columns to allowed values, ``study_dates`` is a range."""

    equal: Mapping[str, Sequence[str]] = field(default_factory=dict)
    study_dates: tuple[str, str] | None = None


class Catalogue:
    """Reports, and images if ``images`` is set, as patients, studies, series and instances."""

    def __init__(self, database: Database, *, images: bool = False, layout: int = 1) -> None:
        self._db = database
        self._images = images
        self._layout = layout

    def unindexed(self, limit: int = 200) -> list[ReportRef]:
        """Return reports whose header is not kept yet, or was kept by another version of the node."""
        uid, known = t.reports.c.sop_instance_uid, t.report_headers.c
        missing = sa.select(uid).where(sa.text(t.UNINDEXED)).order_by(uid).limit(limit)
        outdated = [
            sa.select(known.sop_instance_uid).where(other).order_by(known.layout, known.sop_instance_uid).limit(limit)
            for other in (known.layout < self._layout, known.layout > self._layout)
        ]
        # Each is the head of an index: with every report indexed, nothing is read.
        wanted = sa.union_all(*(sa.select(head.subquery()) for head in (missing, *outdated)))
        names = [t.reports.c[name] for name in ReportRef.__slots__]
        query = sa.select(*names).where(uid.in_(wanted)).order_by(uid).limit(limit)
        with self._db.read() as connection:
            rows = [dict(row._mapping) for row in connection.execute(query)]
        return [ReportRef(**row | {"kind": DocumentKind(row["kind"])}) for row in rows]

    def index(self, headers: Sequence[ReportHeader]) -> None:
        """Keep these headers, in place of those of the same reports."""
        if not headers:
            return
        uids = [header.sop_instance_uid for header in headers]
        with self._db.write() as connection:
            connection.execute(t.report_headers.delete().where(t.report_headers.c.sop_instance_uid.in_(uids)))
            # Another process may have kept the same headers in the meantime.
            insert_ignore(connection, t.report_headers, [asdict(header) for header in headers])
            done = t.reports.update().where(t.reports.c.sop_instance_uid.in_(uids))
            connection.execute(done.values(unindexed=False))

    def page(
        self, level: Level, narrowing: Narrowing, after: str, limit: int = 200
    ) -> list[tuple[str, list[HeldSeries]]]:
        """Return the next entities of a level in order of their key, each with all of its series.

        An entity is there if one of its series fulfils ``narrowing``; one without a key is never there.
        """
        column = level.value
        parts = [source.with_only_columns(source.selected_columns[column]) for source in self._sources(narrowing)]
        keys = sa.union(*parts).subquery()
        key = keys.c[column]
        query = sa.select(key).distinct().where(key > after).order_by(key).limit(limit)
        with self._db.read() as connection:
            found = list(connection.execute(query).scalars())
            held = self._series(connection, column, found) if found else []
        by_key: dict[str, list[HeldSeries]] = defaultdict(list)
        for series in held:
            by_key[getattr(series, column)].append(series)
        return [(value, by_key[value]) for value in found if by_key[value]]

    def instances(self, narrowing: Narrowing, after: str, limit: int = 500) -> list[HeldInstance]:
        """Return the next instances in order of their SOP Instance UID."""
        parts = [_report_instances(narrowing)]
        if self._images:
            parts.append(_image_instances(narrowing))
        every = sa.union_all(*parts).subquery()
        uid = every.c.sop_instance_uid
        query = sa.select(every).where(uid > after).order_by(uid).limit(limit)
        with self._db.read() as connection:
            return [HeldInstance(**row._mapping) for row in connection.execute(query)]

    def series(self, series_instance_uids: Iterable[str]) -> dict[str, HeldSeries]:
        """Return these series by their UID."""
        with self._db.read() as connection:
            held = self._series(connection, Level.SERIES.value, sorted(set(series_instance_uids)))
        return {series.series_instance_uid: series for series in held}

    def _sources(self, narrowing: Narrowing) -> list[sa.Select[Any]]:
        sources = [_narrowed(sa.select(t.report_headers), t.report_headers, narrowing)]
        if self._images:
            sources.append(_narrowed(sa.select(t.series).where(_has_images()), t.series, narrowing))
        return sources

    def _series(self, connection: sa.Connection, column: str, values: Sequence[str]) -> list[HeldSeries]:
        wanted = Narrowing({column: values})
        headers = _narrowed(sa.select(t.report_headers, t.reports.c.sop_class_uid), t.report_headers, wanted).join(
            t.reports, t.reports.c.sop_instance_uid == t.report_headers.c.sop_instance_uid
        )
        by_series: dict[str, list[Any]] = defaultdict(list)
        for row in connection.execute(headers.order_by(t.reports.c.version)):
            by_series[row.series_instance_uid].append(row)
        held = [_of_reports(rows) for rows in by_series.values()]
        return held + (self._image_series(connection, wanted) if self._images else [])

    def _image_series(self, connection: sa.Connection, wanted: Narrowing) -> list[HeldSeries]:
        counts = sa.select(
            t.instances.c.series_instance_uid, t.instances.c.sop_class_uid, sa.func.count().label("held")
        ).where(~t.instances.c.conflict)
        counts = counts.join(t.series, t.series.c.series_instance_uid == t.instances.c.series_instance_uid)
        counts = _narrowed(counts, t.series, wanted)
        counts = counts.group_by(t.instances.c.series_instance_uid, t.instances.c.sop_class_uid)
        by_series: dict[str, dict[str, int]] = defaultdict(dict)
        for row in connection.execute(counts):
            by_series[row.series_instance_uid][row.sop_class_uid] = row.held
        rows = connection.execute(_narrowed(sa.select(t.series), t.series, wanted))
        return [
            _of_images(row, by_series[row.series_instance_uid]) for row in rows if row.series_instance_uid in by_series
        ]


def _of_reports(rows: Sequence[Any]) -> HeldSeries:
    last = rows[-1]
    classes = tuple(sorted({row.sop_class_uid for row in rows}))
    return HeldSeries(
        last.patient_id, last.study_instance_uid, last.series_instance_uid, last.facts, classes, len(rows)
    )


def _of_images(row: Any, counts: Mapping[str, int]) -> HeldSeries:
    facts = {name: getattr(row, name) for name in t.HEADER_COLUMNS}
    return HeldSeries(
        row.patient_id,
        row.study_instance_uid,
        row.series_instance_uid,
        facts,
        tuple(sorted(counts)),
        sum(counts.values()),
    )


def _has_images() -> sa.ColumnElement[bool]:
    held = (t.instances.c.series_instance_uid == t.series.c.series_instance_uid) & ~t.instances.c.conflict
    return sa.exists().where(held)


def _narrowed(query: sa.Select[Any], table: sa.Table, narrowing: Narrowing) -> sa.Select[Any]:
    for column, values in narrowing.equal.items():
        if column in table.c:
            query = query.where(table.c[column].in_(list(values)))
    if narrowing.study_dates is not None:
        low, high = narrowing.study_dates
        date = table.c.study_date
        # Dates of ACR-NEMA times (2026.01.05) sort otherwise; the caller looks at them again.
        query = query.where(((date >= low) & (date <= high)) | date.contains("."))
    return query


def _report_instances(narrowing: Narrowing) -> sa.Select[Any]:
    r, h = t.reports.c, t.report_headers.c
    query = sa.select(
        r.sop_instance_uid,
        r.sop_class_uid,
        h.transfer_syntax_uid,
        h.series_instance_uid,
        r.path,
        r.version.label("instance_number"),
        sa.literal(1).label("number_of_frames"),
        h.header,
    ).join(t.report_headers, h.sop_instance_uid == r.sop_instance_uid)
    return _of_instance(_narrowed(query, t.report_headers, _upper(narrowing)), r.sop_instance_uid, narrowing)


def _image_instances(narrowing: Narrowing) -> sa.Select[Any]:
    i = t.instances.c
    query = (
        sa.select(
            i.sop_instance_uid,
            i.sop_class_uid,
            i.transfer_syntax_uid,
            i.series_instance_uid,
            i.path,
            i.instance_number,
            i.number_of_frames,
            sa.literal("").label("header"),
        )
        .join(t.series, t.series.c.series_instance_uid == i.series_instance_uid)
        .where(~i.conflict)
    )
    return _of_instance(_narrowed(query, t.series, _upper(narrowing)), i.sop_instance_uid, narrowing)


def _upper(narrowing: Narrowing) -> Narrowing:
    equal = {column: values for column, values in narrowing.equal.items() if column != "sop_instance_uid"}
    return Narrowing(equal, narrowing.study_dates)


def _of_instance(query: sa.Select[Any], uid: sa.ColumnElement[str], narrowing: Narrowing) -> sa.Select[Any]:
    wanted = narrowing.equal.get("sop_instance_uid")
    return query if wanted is None else query.where(uid.in_(list(wanted)))
