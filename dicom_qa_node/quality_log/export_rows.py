"""Rows of an export: what the log page's filter selects, in its order, read in batches of bounded memory."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.log_tables import reviews
from dicom_qa_node.dicom_io.date_times import parse_date, parse_time
from dicom_qa_node.domain.dose import DoseSource, SeriesDose
from dicom_qa_node.domain.results import RatedPartKind
from dicom_qa_node.dose.series_dose import dose_of
from dicom_qa_node.quality_log.export_columns import DIMENSIONS, MEASURED, ExportColumn, columns_for, rounded
from dicom_qa_node.quality_log.filters import LogQuery, LogRow
from dicom_qa_node.quality_log.search import LogSearch

__all__ = ["Cell", "export_rows"]

_BATCH = 500

Cell = str | float | int | bool | dt.date | dt.datetime | None


def export_rows(
    database: Database, chosen: LogQuery, *, patients: bool, limit: int | None = None
) -> Iterator[tuple[Cell, ...]]:
    """Yield the rows that a filter selects, cells in the order of `columns_for`.

    Each batch is one short transaction: a long export holds no lock, and shows what is scored while it runs or not.

    Parameters
    ----------
    chosen
        The filter and the order, as of the log page.
    patients
        Whether the columns of patients are there.
    limit
        Rows at most.
    """
    columns = columns_for(patients=patients)
    for batch in _batches(LogSearch(database).stream(chosen), limit):
        with database.read() as connection:
            more = _extras(connection, batch)
        for row in batch:
            yield _cells(columns, _values(row, more[row.result_id]))


@dataclass(frozen=True, slots=True)
class _Extra:
    """What the row of the log page does not hold."""

    model: str
    model_sha256: str
    payload: Mapping[str, Any]
    reviews: Sequence[Any]
    dose: SeriesDose | None


def _batches(rows: Iterator[LogRow], limit: int | None) -> Iterator[list[LogRow]]:
    wanted = islice(rows, limit)
    while batch := list(islice(wanted, _BATCH)):
        yield batch


def _extras(connection: sa.Connection, batch: Sequence[LogRow]) -> dict[int, _Extra]:
    r = t.results.c
    query = sa.select(r.result_id, r.model, r.model_sha256, r.payload)
    found = connection.execute(query.where(r.result_id.in_([row.result_id for row in batch]))).all()
    signed = _reviews(connection, [row for row in batch if row.review])
    doses = dose_of(connection, [row.facts.series_instance_uid for row in batch if row.facts.modality == "CT"])
    by_id = {row.result_id: row for row in batch}
    extras = {}
    for row in found:
        line = by_id[row.result_id]
        opinions = signed.get((line.facts.series_instance_uid, line.version), ())
        extras[row.result_id] = _Extra(
            row.model, row.model_sha256, json.loads(row.payload), opinions, doses.get(line.facts.series_instance_uid)
        )  # fmt: skip
    return extras


def _reviews(connection: sa.Connection, rows: Sequence[LogRow]) -> dict[tuple[str, int], list[Any]]:
    uids = sorted({row.facts.series_instance_uid for row in rows})
    found: dict[tuple[str, int], list[Any]] = {}
    if uids:
        query = sa.select(reviews).where(reviews.c.series_instance_uid.in_(uids)).order_by(reviews.c.review_id)
        for row in connection.execute(query):
            found.setdefault((row.series_instance_uid, row.version), []).append(row)
    return found


def _cells(columns: Sequence[ExportColumn], values: Mapping[str, Cell]) -> tuple[Cell, ...]:
    return tuple(values.get(column.name) for column in columns)


def _values(row: LogRow, extra: _Extra) -> dict[str, Cell]:
    facts, payload = row.facts, extra.payload
    parts = {part["kind"]: part for part in payload.get("rated_parts", ())}
    low, high = row.interval or (None, None)
    deciding = parts.get(row.decided_by.value, {}) if row.decided_by else {}
    dimensions, odd_dimensions = _dimensions(parts)
    measured, odd_measurements = _measured(payload.get("measurements", ()))
    return {
        "study_date": parse_date(facts.study_date),
        "study_time": _clock(facts.study_time),
        "acquired_on": row.acquired_on,
        "accession_number": facts.accession_number,
        "patient_id": facts.patient_id,
        "patient_name": facts.patient_name,
        "patient_birth_date": parse_date(facts.patient_birth_date),
        "protocol": facts.protocol_name,
        "series_description": facts.series_description,
        "study_description": facts.study_description,
        "body_part": facts.body_part_examined,
        "scanner": row.scanner,
        "scanner_model": facts.manufacturer_model_name,
        "site": facts.institution_name,
        "modality": facts.modality,
        "kind": row.kind,
        "qc_outcome": None if row.qc is None else row.qc.value,
        "score": _two(row.score),
        "score_low": _two(low),
        "score_high": _two(high),
        **{f"{kind.value}_score": _two(row.part_scores[kind]) for kind in RatedPartKind},
        **dimensions,
        "decided_by": None if row.decided_by is None else row.decided_by.value,
        "limiting_dimension": deciding.get("limiting"),
        "grade": None if row.grade is None else row.grade.value,
        "grade_low": None if row.grade_low is None else row.grade_low.value,
        "why": row.why,
        "findings": " ".join(row.findings),
        "severity": None if row.severity is None else row.severity.value,
        "deviation_sd": _two(row.deviation),
        **measured,
        "other_measurements": "; ".join((*odd_dimensions, *odd_measurements)),
        **_dose(extra.dose),
        **_review(row, extra.reviews),
        "model": extra.model,
        "model_sha256": extra.model_sha256,
        "rated_with": _algorithms(parts),
        "state": row.state.value,
        "delivery": row.delivery.name.lower(),
        "version": row.version,
        "latest": row.latest,
        "scored_at_utc": row.scored_at.astimezone(dt.UTC),
        "series_instance_uid": facts.series_instance_uid,
        "study_instance_uid": facts.study_instance_uid,
    }


def _review(row: LogRow, opinions: Sequence[Any]) -> dict[str, Cell]:
    scores = [item.score for item in opinions if item.score is not None]
    words = [" ".join(filter(None, (item.reason, item.comment))) for item in opinions]
    return {
        "review": row.review.name.lower(),
        "review_score": _two(scores[-1]) if scores else None,
        "reviewed_by": "; ".join(dict.fromkeys(item.reviewer for item in opinions)),
        "review_comment": "; ".join(filter(None, words)),
        "reviewed_at_utc": opinions[-1].at.astimezone(dt.UTC) if opinions else None,
    }


def _dose(dose: SeriesDose | None) -> dict[str, Cell]:
    if dose is None:
        return {}
    linked = dose.source is DoseSource.REPORT
    return {
        "rdsr_ctdi_vol_mgy": rounded("ctdi_vol", dose.ctdi_vol_mgy) if linked else None,
        "rdsr_dlp_mgy_cm": rounded("dlp", dose.dlp_mgy_cm) if linked else None,
        "ctdi_phantom_cm": dose.phantom_cm,
        "rdsr_link": dose.rule.value if dose.rule is not None else dose.reason,
    }


def _dimensions(parts: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Cell], list[str]]:
    """Return the dimension scores by column, and in words those without a column."""
    found: dict[str, Cell] = {}
    odd: list[str] = []
    for kind, part in parts.items():
        for item in part.get("dimensions", ()):
            name, score = item["dimension"], item["score"]
            if score is not None and name in DIMENSIONS.get(kind, ()):
                found[f"{kind}_{name}_score"] = _two(score)
            elif score is not None:
                odd.append(f"{kind}_{name}_score={score:.2f}")
    return found, odd


def _measured(items: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Cell], list[str]]:
    """Return measured values by column, and in words those without one: another unit, or another release's name."""
    found: dict[str, Cell] = {}
    odd: list[str] = []
    for item in items:
        known, value = MEASURED.get(item["name"]), rounded(item["name"], item["value"])
        if value is None:
            continue
        if known is not None and known.unit == item["unit"]:
            found[known.column.name] = value
        else:
            odd.append(f"{item['name']}={value:.6g} {item['unit']}")
    return found, odd


def _algorithms(parts: Mapping[str, Mapping[str, Any]]) -> str:
    named = [(kind, part["algorithm"]) for kind, part in parts.items() if part.get("algorithm")]
    return "; ".join(f"{kind}: {model['name']} {model['version']}" for kind, model in named)


def _two(value: float | None) -> float | None:
    return None if value is None else round(value, 2) + 0.0


def _clock(text: str) -> str:
    """Return a DICOM TM as ``HH:MM:SS``, "" where it is absent or not a time."""
    time = parse_time(text)
    return "" if time is None else time.strftime("%H:%M:%S")
