"""Queries of the log page: filters and order, and their conditions in SQL."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.log_tables import (
    GRADE_CODES,
    SEVERITY_CODES,
    DeliveryMark,
    ReviewMark,
    log_facets,
    log_findings,
    log_found,
    log_rows,
)
from dicom_qa_node.domain.qc_phantoms import QcOutcome
from dicom_qa_node.domain.results import Grade, RatedPartKind, Severity
from dicom_qa_node.domain.series import SeriesHeader
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.quality_log.full_text import matching, words_of
from dicom_qa_node.quality_log.rows import LAST_BIT, SHARED_KEY

__all__ = [
    "MOST_PATIENT_ROWS",
    "Cursor",
    "Filters",
    "LogChoices",
    "LogOrder",
    "LogPage",
    "LogQuery",
    "LogRow",
    "filters_of",
]


class LogOrder(StrEnum):
    """What the rows are sorted by; rows without a score, or without enough history, come last."""

    TIME = "time"
    ACQUIRED = "acquired"
    SCORE = "score"
    DEVIATION = "deviation"


@dataclass(frozen=True, slots=True)
class LogQuery:
    """What to show; a field left at None (or empty) does not filter.

    ``words`` must all be found, each as the beginning of a word of scanner, protocol, description, finding, or, with
    ``patients``, of the patient's name, ID, birth date or accession number; a UID finds its series or study.
    ``since`` and ``until`` are times of the scoring, until excluded; ``acquired_from`` and ``acquired_until`` are days
    of the acquisition, both included. ``grades`` may hold None for series without a score. ``all_versions`` shows
    replaced versions too.
    """

    words: str = ""
    patients: bool = False
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    acquired_from: dt.date | None = None
    acquired_until: dt.date | None = None
    site: str | None = None
    scanner: str | None = None
    protocol: str | None = None
    modality: str | None = None
    kind: str | None = None
    body_part: str | None = None
    grades: tuple[Grade | None, ...] = ()
    finding: str | None = None
    severity: Severity | None = None
    delivery: DeliveryMark | None = None
    review: ReviewMark | None = None
    score_from: float | None = None
    score_to: float | None = None
    all_versions: bool = False
    order: LogOrder = LogOrder.TIME
    descending: bool = True


@dataclass(frozen=True, slots=True)
class Cursor:
    """The row beside which a page lies: its key (None where it has none) and result; ``back``: the page before it.

    ``count`` is what the first page counted, so that the others need not; None counts again.
    """

    key: float | str | None
    result_id: int
    back: bool = False
    count: int | None = None


@dataclass(frozen=True, slots=True)
class LogRow:
    """One line of the log page.

    ``deviation`` is in robust standard deviations of the scanner's earlier scores; ``worst_slice`` counts from 1, 0
    without slices; ``qc`` is the outcome of a QC phantom, None for a patient.
    """

    result_id: int
    facts: SeriesHeader
    scanner: str
    version: int
    latest: bool
    state: SeriesState
    scored_at: dt.datetime
    kind: str
    score: float | None
    interval: tuple[float, float] | None
    grade: Grade | None
    grade_low: Grade | None
    decided_by: RatedPartKind | None
    part_scores: Mapping[RatedPartKind, float | None]
    why: str
    severity: Severity | None
    findings: tuple[str, ...]
    deviation: float | None
    worst_slice: int
    delivery: DeliveryMark
    review: ReviewMark
    acquired_on: dt.date | None = None
    qc: QcOutcome | None = None


@dataclass(frozen=True, slots=True)
class LogPage:
    """Rows in the wanted order; ``count`` is exact below the limit of counting, ``more`` says that it is not."""

    rows: tuple[LogRow, ...]
    newer: Cursor | None
    older: Cursor | None
    count: int
    more: bool


@dataclass(frozen=True, slots=True)
class LogChoices:
    """What the log holds, for the lists to choose filters from."""

    sites: tuple[str, ...]
    scanners: tuple[str, ...]
    protocols: tuple[str, ...]
    modalities: tuple[str, ...]
    kinds: tuple[str, ...]
    body_parts: tuple[str, ...]
    findings: tuple[str, ...]


MOST_PATIENT_ROWS = 20_000
"""Rows, the newest first, among which words of a patient's name are combined with other filters."""

_RARE_ROWS = 50_000
# Of a longer log more are rare: to walk all of it takes as long as to look this share of its rows up.
_RARE_PART = 100
# The rows of a scanner and protocol lie far apart, and there are enough of them on every stretch of an order.
_RARE_OF_FACETS = 20_000
#: Facets that people may have named otherwise.
_SHOWN = ("scanner", "protocol")
_FACETS = ("site", "scanner", "protocol", "modality", "kind", "body_part")


@dataclass(frozen=True)
class Filters:
    """Conditions on ``log_rows``.

    ``driver`` selects few rows by an index of its own; then ``conditions`` only narrow these. ``facets`` is None
    where every facet will do. ``nothing`` says that no row can match.
    """

    conditions: list[sa.ColumnElement[bool]] = field(default_factory=list)
    facets: list[int] | None = None
    driver: sa.ColumnElement[bool] | None = None
    nothing: bool = False

    def facet_conditions(self) -> list[sa.ColumnElement[bool]]:
        """Return the facets as a condition that no index is looked up for."""
        return [] if self.facets is None else [t.plain(log_rows.c.facet_id).in_(self.facets)]


def filters_of(connection: sa.Connection, chosen: LogQuery) -> Filters:
    """Work out the conditions; reads the facets, the findings and the text index, never the rows."""
    conditions = _own_conditions(chosen)
    mask = _finding_mask(connection, chosen.finding)
    if mask == 0:
        return Filters(nothing=True)
    if mask is not None:
        conditions.append(_bits(mask))
    facets = _facets(connection, chosen)
    uids, words = _split(chosen.words)
    driver = _by_uid(uids) if uids else None
    found = _by_words(connection, words, chosen.patients)
    conditions += found.conditions
    for some in found.facets:
        facets = some if facets is None else [number for number in facets if number in some]
    if found.driver is not None:
        driver = found.driver if driver is None else driver & found.driver
    if facets == []:
        return Filters(nothing=True)
    if driver is None and facets is not None and _rows_of(connection, facets) <= _RARE_OF_FACETS:
        return Filters(conditions, facets, log_rows.c.facet_id.in_(facets))
    driver = _rarest(connection, chosen, [*found.masks, *([mask] if mask else [])]) if driver is None else driver
    if driver is not None:
        return Filters([*conditions, *Filters(facets=facets).facet_conditions()], facets, driver)
    return Filters(conditions, facets)


def _rarest(connection: sa.Connection, chosen: LogQuery, masks: Sequence[int]) -> sa.ColumnElement[bool] | None:
    """Return the filter that alone leaves the fewest rows, None where each leaves more than can be sorted quickly."""
    r = log_rows.c
    candidates: list[sa.ColumnElement[bool]] = []
    if chosen.grades:
        candidates.append(r.grade.in_([GRADE_CODES[grade] for grade in chosen.grades]))
    if chosen.severity is not None:
        candidates.append(r.severity >= SEVERITY_CODES[chosen.severity])
    if chosen.delivery is not None:
        candidates.append(r.delivery == int(chosen.delivery))
    if chosen.review is not None:
        candidates.append(r.review == int(chosen.review))
    if chosen.since is not None and chosen.order is not LogOrder.TIME:
        candidates.append(r.scored_at >= chosen.since)
    if chosen.order is not LogOrder.ACQUIRED and (chosen.acquired_from or chosen.acquired_until):
        candidates.append(sa.and_(*_acquired(chosen, r.acquired_on)))
    most = max(_RARE_ROWS, _newest(connection) // _RARE_PART)
    counted = [(_count(connection, sa.select(sa.literal(1)).where(one), most), one) for one in candidates]
    for mask in masks:
        bits = [bit for bit in range(LAST_BIT + 1) if mask >> bit & 1]
        of_finding = sa.select(log_found.c.result_id).where(log_found.c.bit.in_(bits))
        counted.append((_count(connection, of_finding, most), r.result_id.in_(of_finding)))
    rare = [pair for pair in counted if pair[0] <= most]
    return min(rare, key=lambda pair: pair[0])[1] if rare else None


def _acquired(chosen: LogQuery, day: sa.ColumnElement[Any]) -> list[sa.ColumnElement[bool]]:
    first = [] if chosen.acquired_from is None else [day >= chosen.acquired_from]
    return first if chosen.acquired_until is None else [*first, day <= chosen.acquired_until]


def _newest(connection: sa.Connection) -> int:
    return int(connection.execute(sa.select(sa.func.max(log_rows.c.result_id))).scalar_one() or 0)


def _count(connection: sa.Connection, rows: sa.Select[Any], most: int) -> int:
    """Count, but no further than matters."""
    few = rows.limit(most + 1).subquery()
    return int(connection.execute(sa.select(sa.func.count()).select_from(few)).scalar_one())


def _own_conditions(chosen: LogQuery) -> list[sa.ColumnElement[bool]]:
    r = log_rows.c
    found: list[sa.ColumnElement[bool]] = []
    # The ones that few rows meet come first: a row that fails one is asked no more.
    if chosen.severity is not None:
        found.append(t.plain(r.severity) >= SEVERITY_CODES[chosen.severity])
    if chosen.grades:
        found.append(t.plain(r.grade).in_([GRADE_CODES[grade] for grade in chosen.grades]))
    if chosen.review is not None:
        found.append(t.plain(r.review) == int(chosen.review))
    if chosen.delivery is not None:
        found.append(t.plain(r.delivery) == int(chosen.delivery))
    if chosen.since is not None:
        found.append(r.scored_at >= chosen.since)
    if chosen.until is not None:
        found.append(r.scored_at < chosen.until)
    # In another order no index is to be looked up for it.
    day = r.acquired_on if chosen.order is LogOrder.ACQUIRED else sa.func.coalesce(r.acquired_on, sa.null())
    found += _acquired(chosen, day)
    if not chosen.all_versions:
        found.append(t.plain(r.latest) == 1)
    # Not in the index of the times: read from the rows that are left.
    if chosen.score_from is not None:
        found.append(r.score >= chosen.score_from)
    if chosen.score_to is not None:
        found.append(r.score <= chosen.score_to)
    return found


def _bits(mask: int) -> sa.ColumnElement[bool]:
    return log_rows.c.findings.op("&")(sa.literal(mask, sa.BigInteger)) != 0


def _finding_mask(connection: sa.Connection, key: str | None) -> int | None:
    if key is None:
        return None
    found = connection.execute(sa.select(log_findings.c.bit).where(log_findings.c.key == key)).scalar_one_or_none()
    return 0 if found is None else 1 << found


def _facets(connection: sa.Connection, chosen: LogQuery) -> list[int] | None:
    wanted = [(name, getattr(chosen, name)) for name in _FACETS if getattr(chosen, name) is not None]
    if not wanted:
        return None
    query = sa.select(log_facets.c.facet_id).where(*(_is(name, value) for name, value in wanted))
    return list(connection.execute(query).scalars())


def _is(name: str, value: str) -> sa.ColumnElement[bool]:
    """Return the condition that a facet has a value; a name of the headers finds what people call otherwise, too."""
    written = log_facets.c[name] == value
    return written | (log_facets.c[f"shown_{name}"] == value) if name in _SHOWN else written


def _rows_of(connection: sa.Connection, facets: Sequence[int]) -> int:
    query = sa.select(sa.func.coalesce(sa.func.sum(log_facets.c.rows), 0)).where(log_facets.c.facet_id.in_(facets))
    return int(connection.execute(query).scalar_one())


def _split(text: str) -> tuple[list[str], list[str]]:
    """Return the UIDs and the words of a search text."""
    parts = text.split()
    uids = [part for part in parts if part.count(".") >= 2 and part.replace(".", "").isdecimal()]
    return uids, words_of(" ".join(part for part in parts if part not in uids))


def _by_uid(uids: Sequence[str]) -> sa.ColumnElement[bool]:
    s = t.series.c
    of_study = sa.select(s.series_instance_uid).where(s.study_instance_uid.in_(list(uids)))
    own = log_rows.c.series_instance_uid
    return own.in_(of_study.union(sa.select(s.series_instance_uid).where(s.series_instance_uid.in_(list(uids)))))


@dataclass(frozen=True)
class _Words:
    """What words ask for: ``driver`` what a patient's words select, ``conditions`` for each row.

    ``facets`` holds a list for each word that only facets have, ``masks`` the bits for each that only findings have.
    """

    driver: sa.ColumnElement[bool] | None
    conditions: list[sa.ColumnElement[bool]]
    facets: list[list[int]]
    masks: list[int]


def _by_words(connection: sa.Connection, words: Sequence[str], patients: bool) -> _Words:
    of_patients: list[str] = []
    masks: list[int] = []
    only_facets: list[list[int]] = []
    conditions: list[sa.ColumnElement[bool]] = []
    for word in words:
        facets, mask = _shared(connection, word)
        shared = [*([t.plain(log_rows.c.facet_id).in_(facets)] if facets else []), *([_bits(mask)] if mask else [])]
        of_patient = patients and (not shared or _names_somebody(connection, word))
        if mask and not facets and not of_patient:
            masks.append(mask)
        if facets and not mask and not of_patient:
            only_facets.append(facets)
        elif of_patient and not shared:
            of_patients.append(word)
        elif of_patient:
            named = log_rows.c.result_id.in_(matching(connection, [word], MOST_PATIENT_ROWS))
            conditions.append(sa.or_(*shared, named))
        else:
            conditions.append(sa.or_(*shared, sa.false()))
    driver = None
    if of_patients:
        driver = log_rows.c.result_id.in_(matching(connection, of_patients, MOST_PATIENT_ROWS))
    return _Words(driver, conditions, only_facets, masks)


def _names_somebody(connection: sa.Connection, word: str) -> bool:
    return connection.execute(matching(connection, [word], 1)).first() is not None


def _shared(connection: sa.Connection, word: str) -> tuple[list[int], int]:
    """Return how a word may match without the patient: by these facets, or by the bits of these findings."""
    f = log_facets.c
    given = sa.func.lower(" " + sa.func.coalesce(f.shown_scanner, "") + " " + sa.func.coalesce(f.shown_protocol, ""))
    found = f.words.contains(f" {word}", autoescape=True) | given.contains(f" {word}", autoescape=True)
    facets = list(connection.execute(sa.select(f.facet_id).where(found)).scalars())
    mask = 0
    for row in connection.execute(sa.select(log_findings.c.key, log_findings.c.bit)):
        if row.key != SHARED_KEY and any(part.startswith(word) for part in row.key.split("_")):
            mask |= 1 << row.bit
    return facets, mask
