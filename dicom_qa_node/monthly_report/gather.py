"""Reads the figures of a month: its rows of the log, and what was noticed and done in it.

Every query is bounded by the month, by an index, or by a number of rows.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa

from dicom_qa_node import __version__
from dicom_qa_node.config import Config
from dicom_qa_node.db import chart_tables as s
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.chart_tables import SCORE_ID
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.log_tables import GRADE_CODES, log_facets, log_findings, log_rows, reviews
from dicom_qa_node.db.phantom_tables import QcMark
from dicom_qa_node.domain.errors import NotFound
from dicom_qa_node.domain.results import Grade, grade_label
from dicom_qa_node.monthly_report.figures import (
    DriftLine,
    EventLine,
    ModelLine,
    MonthlyFigures,
    ProtocolMonth,
    ReviewFigures,
    ScannerMonth,
    Trend,
    TroubleLine,
)
from dicom_qa_node.monthly_report.levels import level_lines
from dicom_qa_node.monthly_report.month import Month
from dicom_qa_node.monthly_report.phantoms import phantom_lines

__all__ = ["gather_month", "known_scanners", "months_with_series"]

_MOST_LINES = 100
_MOST_PROTOCOLS = 12
_MOST_FINDINGS = 5
_TREND_WEEKS = 26
_FEWEST_FOR_QUARTILES = 10
_GRADES = {code: grade for grade, code in GRADE_CODES.items()}


def gather_month(
    database: Database, config: Config, month: Month, scanner: str = "", *, now: dt.datetime
) -> MonthlyFigures:
    """Return the figures of one month by the date of the acquisition, for one scanner or the whole site.

    Raises
    ------
    NotFound
        The log knows no scanner of that name.
    """
    levels = level_lines(database, month, scanner)
    phantoms = phantom_lines(database, config, month, scanner, now)
    with database.read() as connection:
        facets = _facets(connection, scanner)
        if scanner and not facets:
            raise NotFound(f"the quality log has no scanner {scanner!r}")
        before = _tallies(connection, facets, month.previous)
        tallies = _tallies(connection, facets, month)
        ids = _scanner_ids(connection, {row.scanner for row in facets.values()})
        keys = {row.bit: row.key for row in connection.execute(sa.select(log_findings))}
        scanners = tuple(
            _scanner_month(connection, name, tallies[name], before.get(name), keys, ids.get(name, ()), month)
            for name in sorted(tallies)
        )
        wanted = [number for numbers in ids.values() for number in numbers]
        names = {number: name for name, numbers in ids.items() for number in numbers}
        events = _events(connection, wanted, names, month)
        baselines = _baselines(connection, wanted, names, month)
        return MonthlyFigures(
            month=month,
            scanner=scanner,
            site=config.report.institution_name,
            node=config.ae_title,
            version=__version__,
            made_at=now,
            scanners=scanners,
            levels=levels,
            phantoms=phantoms,
            drifts=_drifts(connection, wanted, names, month, [*events, *baselines]),
            troubles=_troubles(connection, wanted if scanner else None, month),
            events=events,
            baselines=baselines,
            reviews=_reviews(connection, facets if scanner else None, month),
            models=_models(connection, facets if scanner else None, month),
        )


def known_scanners(database: Database) -> list[str]:
    """Return the names of the scanners in the log."""
    with database.read() as connection:
        return sorted({row.scanner for row in _facets(connection, "").values()})


def months_with_series(database: Database, most: int = 24) -> list[Month]:
    """Return the months between the first and the latest acquisition, the latest first."""
    day = log_rows.c.acquired_on
    with database.read() as connection:
        first = connection.execute(sa.select(sa.func.min(day))).scalar_one()
        last = connection.execute(sa.select(sa.func.max(day))).scalar_one()
    if first is None:
        return []
    found = [Month.of(last)]
    while len(found) < most and found[-1] > Month.of(first):
        found.append(found[-1].previous)
    return found


@dataclass(slots=True)
class _Tally:
    """The rows of one scanner in a month."""

    model: str = ""
    grades: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    masks: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    scores: dict[tuple[str, str], list[float | None]] = field(default_factory=lambda: defaultdict(list))
    poor: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    @property
    def series(self) -> int:
        return sum(self.grades.values())

    def median(self) -> float | None:
        return _median([score for found in self.scores.values() for score in found])


def _facets(connection: sa.Connection, scanner: str) -> dict[int, Any]:
    f = log_facets.c
    shown = sa.func.coalesce(f.shown_scanner, f.scanner).label("scanner")
    protocol = sa.func.coalesce(f.shown_protocol, f.protocol).label("protocol")
    query = sa.select(f.facet_id, shown, f.model, f.kind, protocol, f.body_part)
    rows = connection.execute(query).all()
    return {row.facet_id: row for row in rows if scanner in ("", row.scanner)}


def _tallies(connection: sa.Connection, facets: Mapping[int, Any], month: Month) -> dict[str, _Tally]:
    r = log_rows.c
    inside = (r.acquired_on >= month.first_day) & (r.acquired_on <= month.last_day)
    query = sa.select(r.facet_id, r.grade, r.grade_low, r.score, r.findings).where(
        inside, r.latest == 1, _of_patients()
    )
    found: dict[str, _Tally] = {}
    for row in connection.execute(query):
        facet = facets.get(row.facet_id)
        if facet is None:
            continue
        tally = found.setdefault(facet.scanner, _Tally(facet.model))
        grade = _GRADES[row.grade]
        tally.grades[grade_label(grade, _GRADES[row.grade_low]) or "no score"] += 1
        tally.masks[row.findings] += 1
        key = (facet.kind, facet.protocol or facet.body_part or "(no protocol)")
        tally.scores[key].append(row.score)
        tally.poor[key] += row.grade > GRADE_CODES[Grade.DIAGNOSTIC]
    return found


def _of_patients() -> sa.ColumnElement[bool]:
    return sa.func.coalesce(log_rows.c.qc, int(QcMark.NONE)) == int(QcMark.NONE)


def _scanner_month(
    connection: sa.Connection, name: str, tally: _Tally, before: _Tally | None, keys: Mapping[int, str],
    ids: Sequence[int], month: Month,
) -> ScannerMonth:  # fmt: skip
    busiest = sorted(tally.scores, key=lambda key: -len(tally.scores[key]))
    return ScannerMonth(
        name=name,
        model=tally.model,
        series=tally.series,
        series_before=0 if before is None else before.series,
        median=tally.median(),
        median_before=None if before is None else before.median(),
        grades=dict(tally.grades),
        findings=_findings(tally.masks, keys),
        protocols=tuple(_protocol(tally, key) for key in busiest[:_MOST_PROTOCOLS]),
        trend=_trend(connection, ids, month),
    )


def _protocol(tally: _Tally, key: tuple[str, str]) -> ProtocolMonth:
    scores = [score for score in tally.scores[key] if score is not None]
    enough = len(scores) >= _FEWEST_FOR_QUARTILES
    low, high = (float(value) for value in np.percentile(scores, [25, 75])) if enough else (0.0, 0.0)
    return ProtocolMonth(
        key[0], key[1], len(tally.scores[key]), len(scores), _median(scores), (low, high) if enough else None,
        tally.poor[key],
    )  # fmt: skip


def _findings(masks: Mapping[int, int], keys: Mapping[int, str]) -> dict[str, int]:
    counts = {key: sum(number for mask, number in masks.items() if mask >> bit & 1) for bit, key in keys.items()}
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return {key: number for key, number in ranked[:_MOST_FINDINGS] if number}


def _median(scores: Sequence[float | None]) -> float | None:
    found = [score for score in scores if score is not None]
    return float(np.median(found)) if found else None


def _scanner_ids(connection: sa.Connection, names: set[str]) -> dict[str, list[int]]:
    """Return the devices behind the names of the log."""
    found: dict[str, list[int]] = {}
    for row in connection.execute(sa.select(s.scanners.c.scanner_id, s.scanners.c.name)):
        if row.name in names:
            found.setdefault(row.name, []).append(row.scanner_id)
    return found


def _trend(connection: sa.Connection, ids: Sequence[int], month: Month) -> Trend | None:
    """Return the weeks up to the end of the month of the group with the most series."""
    g, week = s.groups.c, s.weeks.c
    busiest = sa.select(g.group_id, g.protocol).where(g.scanner_id.in_(list(ids)), g.total > 0)
    group = connection.execute(busiest.order_by(g.total.desc()).limit(1)).one_or_none()
    if group is None:
        return None
    since = month.last_day - dt.timedelta(weeks=_TREND_WEEKS)
    inside = (week.group_id == group.group_id) & (week.quantity_id == SCORE_ID)
    inside &= (week.monday >= since) & (week.monday <= month.last_day)
    query = sa.select(week.monday, week.q1, week.median, week.q3).where(inside).order_by(week.monday)
    rows = tuple((row.monday, row.q1, row.median, row.q3) for row in connection.execute(query))
    return Trend(group.protocol, rows) if len(rows) > 1 else None


def _drifts(
    connection: sa.Connection, ids: Sequence[int], names: Mapping[int, str], month: Month, done: Sequence[EventLine]
) -> tuple[DriftLine, ...]:
    a = s.alarms.c
    joined = s.alarms.join(s.groups, s.groups.c.group_id == a.group_id)
    joined = joined.outerjoin(s.quantities, s.quantities.c.name == a.quantity)
    meaning = sa.func.coalesce(s.quantities.c.meaning, a.quantity).label("meaning")
    query = sa.select(s.alarms, s.groups.c.scanner_id, s.groups.c.protocol, meaning).select_from(joined)
    inside = (a.raised_at < month.end) & (a.ended_at.is_(None) | (a.ended_at >= month.begin))
    # What is listed under a cause is not a drift of its own.
    query = query.where(inside, s.groups.c.scanner_id.in_(list(ids)), a.cause_id.is_(None))
    rows = connection.execute(query.order_by(a.raised_at.desc()).limit(_MOST_LINES)).all()
    return tuple(
        DriftLine(
            scanner=names[row.scanner_id],
            protocol=row.protocol,
            quantity=row.meaning,
            sentence=row.sentence or f"{'+' if row.side > 0 else '−'}{abs(row.shift_sigma):.1f} standard deviations",
            raised_at=row.raised_at,
            ended_at=row.ended_at,
            done=_done_since(names[row.scanner_id], row.raised_at, done),
        )
        for row in rows
    )


def _done_since(scanner: str, raised_at: dt.datetime, done: Sequence[EventLine]) -> str:
    after = [item for item in done if item.scanner == scanner and item.at >= raised_at]
    return "; ".join(f"{item.at.astimezone():%d %b} {item.kind}: {item.text}" for item in sorted(after, key=_at)[:3])


def _at(item: EventLine) -> dt.datetime:
    return item.at


def _troubles(connection: sa.Connection, ids: Sequence[int] | None, month: Month) -> tuple[TroubleLine, ...]:
    a = s.alerts.c
    query = sa.select(s.alerts).where(a.created_at >= month.begin, a.created_at < month.end)
    if ids is not None:
        query = query.where(a.scanner_id.in_(list(ids)))
    rows = connection.execute(query.order_by(a.alert_id.desc()).limit(_MOST_LINES)).all()
    return tuple(TroubleLine(row.created_at, row.scanner or "node", row.text, _seen_to(row)) for row in rows)


def _seen_to(row: Any) -> str:
    if row.acknowledged_at is None:
        return ""
    note = f": {row.note}" if row.note else ""
    return f"{row.acknowledged_by}, {row.acknowledged_at.astimezone():%Y-%m-%d}{note}"


def _events(
    connection: sa.Connection, ids: Sequence[int], names: Mapping[int, str], month: Month
) -> tuple[EventLine, ...]:
    e, later = s.events.c, s.events.alias("later")
    superseded = sa.exists().where(later.c.supersedes == e.event_id)
    inside = (e.at >= month.begin) & (e.at < month.end) & e.scanner_id.in_(list(ids))
    query = sa.select(s.events).where(inside, ~superseded, ~e.withdrawn).order_by(e.at).limit(_MOST_LINES)
    return tuple(
        EventLine(row.at, names[row.scanner_id], row.kind, row.text, row.author) for row in connection.execute(query)
    )


def _baselines(
    connection: sa.Connection, ids: Sequence[int], names: Mapping[int, str], month: Month
) -> tuple[EventLine, ...]:
    b = s.baselines.c
    joined = s.baselines.join(s.groups, s.groups.c.group_id == b.group_id)
    query = sa.select(s.baselines, s.groups.c.scanner_id, s.groups.c.protocol).select_from(joined)
    inside = (b.created_at >= month.begin) & (b.created_at < month.end) & s.groups.c.scanner_id.in_(list(ids))
    rows = connection.execute(query.where(inside).order_by(b.baseline_id).limit(_MOST_LINES)).all()
    return tuple(
        EventLine(row.created_at, names[row.scanner_id], "new baseline", _baseline_words(row), row.author)
        for row in rows
    )


def _baseline_words(row: Any) -> str:
    limits = "" if row.centre is None else f", centre {row.centre:.4g} ({row.total} series)"
    return f"{row.quantity} of {row.protocol}{limits}{f': {row.reason}' if row.reason else ''}"


def _reviews(connection: sa.Connection, facets: Mapping[int, Any] | None, month: Month) -> ReviewFigures:
    r = log_rows.c
    same = (r.series_instance_uid == reviews.c.series_instance_uid) & (r.version == reviews.c.version)
    columns = (reviews.c.reviewer, reviews.c.agrees, reviews.c.score, r.score.label("given"), r.facet_id)
    query = sa.select(*columns).select_from(reviews.join(log_rows, same))
    query = query.where(reviews.c.at >= month.begin, reviews.c.at < month.end)
    by_reviewer: dict[str, tuple[int, int]] = {}
    differences: list[float] = []
    for row in connection.execute(query):
        if facets is not None and row.facet_id not in facets:
            continue
        total, agreed = by_reviewer.get(row.reviewer, (0, 0))
        by_reviewer[row.reviewer] = (total + 1, agreed + bool(row.agrees))
        if row.score is not None and row.given is not None:
            differences.append(row.score - row.given)
    return ReviewFigures(
        reviews=sum(total for total, _ in by_reviewer.values()),
        agreed=sum(agreed for _, agreed in by_reviewer.values()),
        by_reviewer=dict(sorted(by_reviewer.items())),
        with_score=len(differences),
        mean_difference=float(np.mean(differences)) if differences else None,
    )


def _models(connection: sa.Connection, facets: Mapping[int, Any] | None, month: Month) -> tuple[ModelLine, ...]:
    r = log_rows.c
    inside = (r.acquired_on >= month.first_day) & (r.acquired_on <= month.last_day) & (r.latest == 1) & _of_patients()
    if facets is not None:
        inside &= t.plain(r.facet_id).in_(list(facets))
    model, sha256 = t.results.c.model, t.results.c.model_sha256
    joined = log_rows.join(t.results, t.results.c.result_id == r.result_id)
    query = sa.select(model, sha256, sa.func.count().label("series")).select_from(joined).where(inside)
    rows = connection.execute(query.group_by(model, sha256).order_by(sa.func.count().desc()).limit(_MOST_LINES))
    return tuple(ModelLine(row.model, row.model_sha256, row.series) for row in rows)
