"""Rows of the log page, written in the transaction that writes the result; earlier scores of a scanner."""

from __future__ import annotations

import datetime as dt
import hashlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import insert_ignore
from dicom_qa_node.db.log_tables import (
    FACET_COLUMNS,
    GRADE_CODES,
    PART_CODES,
    SEVERITY_CODES,
    log_facets,
    log_findings,
    log_found,
    log_rows,
)
from dicom_qa_node.db.phantom_tables import OUTCOME_CODES
from dicom_qa_node.dicom_io.date_times import parse_date
from dicom_qa_node.domain.acquisition_parameters import EARLIEST
from dicom_qa_node.domain.results import RatedPartKind, SeriesResult
from dicom_qa_node.domain.scanner_names import derived_name
from dicom_qa_node.domain.series import SeriesHeader
from dicom_qa_node.quality_log.full_text import index_patient, patient_words, words_of

__all__ = [
    "LAST_BIT",
    "SHARED_KEY",
    "Bits",
    "add_log_row",
    "deviation_from",
    "earlier_scores",
    "facet_row",
    "found_rows",
    "log_row",
    "scanner_name",
    "with_comparison",
]

LAST_BIT = 61
SHARED_KEY = "other findings"
_HISTORY = 100
_ENOUGH = 20
_SCATTER_FLOOR = 0.05


class Bits:
    """The bit of every finding's key in ``log_rows.findings``; all keys beyond 61 share the last bit."""

    def __init__(self, known: Mapping[str, int]) -> None:
        self._bits = dict(known)

    def mask(self, keys: Iterable[str]) -> int:
        """Return the keys as one number; a key met for the first time gets the next bit."""
        found = 0
        for key in keys:
            found |= 1 << self._bit(key)
        return found

    def named(self) -> dict[str, int]:
        """Return every key with its bit."""
        return dict(self._bits)

    def _bit(self, key: str) -> int:
        if key not in self._bits and len(self._bits) >= LAST_BIT:
            return self._bits.setdefault(SHARED_KEY, LAST_BIT)
        return self._bits.setdefault(key, len(self._bits))


def scanner_name(facts: SeriesHeader) -> str:
    """Return the name under which a scanner's results are grouped, see `derived_name`."""
    return derived_name(
        facts.station_name, facts.manufacturer, facts.manufacturer_model_name, facts.device_serial_number
    )


def add_log_row(
    connection: sa.Connection, result_id: int, facts: SeriesHeader, version: int, result: SeriesResult, at: dt.datetime
) -> None:
    """Add the row of a new result; the rows of earlier versions of its series are no longer the latest."""
    facet_id = _facet(connection, facts, result)
    bits = Bits({row.key: row.bit for row in connection.execute(sa.select(log_findings))})
    earlier = _earlier_scores(connection, facet_id, at)
    same = log_rows.c.series_instance_uid == facts.series_instance_uid
    connection.execute(log_rows.update().where(same & (log_rows.c.version < version)).values(latest=0))
    row = log_row(result_id, version, facts, result, at, facet_id, bits)
    insert_ignore(connection, log_findings, [{"key": key, "bit": bit} for key, bit in bits.named().items()])
    connection.execute(log_rows.insert().values(**row, deviation=deviation_from(result.score, earlier)))
    if row["findings"]:
        connection.execute(log_found.insert(), found_rows(row))
    index_patient(connection, [{"result_id": result_id, "words": patient_words(facts)}])


def log_row(
    result_id: int, version: int, facts: SeriesHeader, result: SeriesResult, at: dt.datetime, facet_id: int, bits: Bits
) -> dict[str, object]:
    """Return the columns that the result itself fixes; ``bits`` learns the findings it meets for the first time."""
    low, high = result.interval or (None, None)
    return {
        "result_id": result_id,
        "series_instance_uid": facts.series_instance_uid,
        "version": version,
        "latest": 1,
        "scored_at": at,
        "acquired_on": _acquired_on(facts, result, at),
        "facet_id": facet_id,
        "score": result.score,
        "low": low,
        "high": high,
        "grade": GRADE_CODES[result.grade],
        "grade_low": GRADE_CODES[result.grade_low],
        "decided_by": PART_CODES[result.decided_by],
        **{f"{kind.value}_score": _part_score(result, kind) for kind in RatedPartKind},
        "severity": max((SEVERITY_CODES[item.severity] for item in result.findings), default=0),
        "findings": bits.mask(item.key for item in result.findings),
        "worst_slice": _worst_slice(result),
        "qc": None if result.qc_phantom is None else int(OUTCOME_CODES[result.qc_phantom.outcome]),
    }


def found_rows(row: Mapping[str, object]) -> list[dict[str, object]]:
    """Return the rows of ``log_found`` that belong to a row of the log."""
    mask = int(str(row["findings"]))
    return [{"bit": bit, "result_id": row["result_id"]} for bit in range(LAST_BIT + 1) if mask >> bit & 1]


def facet_row(facts: SeriesHeader, result: SeriesResult) -> dict[str, object]:
    """Return the words that this series shares with others, with their digest and their words for searching."""
    values = (
        facts.institution_name, scanner_name(facts), facts.manufacturer_model_name, result.modality,
        result.kind.value, facts.body_part_examined, facts.protocol_name, facts.series_description,
        facts.study_description,
    )  # fmt: skip
    digest = hashlib.sha256("\0".join(values).encode()).hexdigest()[:32]
    words = " ".join(dict.fromkeys(words_of(" ".join((*values, facts.station_name, facts.manufacturer)))))
    return {**dict(zip(FACET_COLUMNS, values, strict=True)), "digest": digest, "words": f" {words} "}


def with_comparison(
    connection: sa.Connection, facts: SeriesHeader, result: SeriesResult, at: dt.datetime
) -> SeriesResult:
    """Return a result whose sentence also compares its score with the scanner's median for the protocol.

    The last 100 scores count; with fewer than 20 there is no comparison.
    """
    if result.score is None or not result.why:
        return result
    digest = facet_row(facts, result)["digest"]
    facet_id = connection.execute(sa.select(log_facets.c.facet_id).where(log_facets.c.digest == digest)).scalar()
    earlier = [] if facet_id is None else _earlier_scores(connection, facet_id, at)
    if len(earlier) < _ENOUGH:
        return result
    usual = statistics.median(earlier)
    compared = f"The median of this scanner for the protocol is {usual:.1f} ({len(earlier)} series)."
    return replace(result, why=f"{result.why} {compared}")


def deviation_from(score: float | None, earlier: Sequence[float]) -> float | None:
    """Return how many robust standard deviations a score lies above (+) or below (-) the scanner's earlier ones.

    The centre is the median and the scatter 1.4826 x the median absolute deviation, at least 0.05; None without a
    score or with fewer than 20 earlier ones.
    """
    if score is None or len(earlier) < _ENOUGH:
        return None
    centre = statistics.median(earlier)
    scatter = 1.4826 * statistics.median([abs(value - centre) for value in earlier])
    return (score - centre) / max(scatter, _SCATTER_FLOOR)


def _earlier_scores(connection: sa.Connection, facet_id: int, at: dt.datetime) -> list[float]:
    r = log_rows.c
    query = sa.select(r.score).where((r.facet_id == facet_id) & (r.scored_at < at) & (r.latest == 1))
    found = connection.execute(query.order_by(r.scored_at.desc()).limit(_HISTORY)).scalars()
    return [value for value in found if value is not None]


def _facet(connection: sa.Connection, facts: SeriesHeader, result: SeriesResult) -> int:
    row = facet_row(facts, result)
    same = log_facets.c.digest == row["digest"]
    insert_ignore(connection, log_facets, [row])
    connection.execute(log_facets.update().where(same).values(rows=log_facets.c.rows + 1))
    return int(connection.execute(sa.select(log_facets.c.facet_id).where(same)).scalar_one())


def _part_score(result: SeriesResult, kind: RatedPartKind) -> float | None:
    part = result.rated_part(kind)
    return None if part is None else part.score


def _acquired_on(facts: SeriesHeader, result: SeriesResult, at: dt.datetime) -> dt.date:
    """Return the day of the acquisition at the scanner, the study's where that is unknown, else that of scoring."""
    taken = None if result.acquisition is None else result.acquisition.at
    days = (taken.date() if taken is not None else None, parse_date(facts.study_date))
    latest = at.date() + dt.timedelta(days=1)
    return next((day for day in days if day is not None and EARLIEST <= day <= latest), at.date())


def _worst_slice(result: SeriesResult) -> int:
    """Return the number (from 1) of the slice with the lowest score, 0 without slices."""
    numbered = enumerate(result.slices, start=1)
    return min(numbered, key=lambda pair: pair[1].score, default=(0, None))[0]


def earlier_scores(
    connection: sa.Connection, facts: SeriesHeader, result: SeriesResult, before: dt.datetime, limit: int
) -> list[float]:
    """Return the last scores of other series of the same scanner and kind, oldest first.

    Only scores by the same weights count: those of another network cannot be compared.
    """
    r = t.results.c
    query = (
        sa.select(r.score)
        .where(
            r.scanner == scanner_name(facts),
            r.scored_at < before,
            r.kind == result.kind,
            r.model_sha256 == result.model.sha256,
            r.series_instance_uid != result.series_instance_uid,
            r.score.is_not(None),
        )
        .order_by(r.scored_at.desc(), r.result_id.desc())
        .limit(limit)
    )
    return [float(score) for score in connection.execute(query).scalars()][::-1]
