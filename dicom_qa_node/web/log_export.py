"""The log as CSV and JSON: the rows that the page shows, and nothing of a patient for who may not see it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from dicom_qa_node.safe_text import csv_cell, escaped_json
from dicom_qa_node.store.log_query import LogRow

__all__ = ["csv_lines", "fields_of", "in_chunks", "json_parts"]


def fields_of(row: LogRow, *, patients: bool) -> dict[str, Any]:
    """Return a row as plain values; the patient's keys are not even there without ``patients``."""
    facts = row.facts
    low, high = row.interval or (None, None)
    who = {
        "patient_name": facts.patient_name,
        "patient_id": facts.patient_id,
        "patient_birth_date": facts.patient_birth_date,
        "accession_number": facts.accession_number,
    }
    return {
        "scored_at": row.scored_at.isoformat(),
        **(who if patients else {}),
        "site": facts.institution_name,
        "scanner": row.scanner,
        "protocol": facts.protocol_name,
        "series_description": facts.series_description,
        "modality": facts.modality,
        "kind": row.kind,
        "body_part": facts.body_part_examined,
        "score": row.score,
        "low": low,
        "high": high,
        "grade": None if row.grade is None else row.grade.value,
        "deviation": row.deviation,
        "findings": list(row.findings),
        "severity": None if row.severity is None else row.severity.value,
        "state": row.state.value,
        "delivery": row.delivery.name.lower(),
        "review": row.review.name.lower(),
        "version": row.version,
        "latest": row.latest,
        "series_instance_uid": facts.series_instance_uid,
        "study_instance_uid": facts.study_instance_uid,
    }


def csv_lines(rows: Iterator[LogRow], *, patients: bool) -> Iterator[str]:
    """Yield CSV with a heading; text that a spreadsheet would run has a quote in front."""
    heading = False
    for row in rows:
        values = fields_of(row, patients=patients)
        if not heading:
            yield _line(list(values))
            heading = True
        yield _line([_cell(value) for value in values.values()])
    if not heading:
        yield _line(["scored_at"])


def json_parts(rows: Iterator[LogRow], *, patients: bool) -> Iterator[str]:
    """Yield a JSON list, a row a line."""
    lead = "["
    for row in rows:
        yield lead + escaped_json(json.dumps(fields_of(row, patients=patients), ensure_ascii=False))
        lead = ",\n"
    yield "]\n" if lead != "[" else "[]\n"


def in_chunks(parts: Iterator[str], size: int = 1 << 16) -> Iterator[bytes]:
    """Join small parts: every part that is sent on its own costs a change of thread."""
    held: list[str] = []
    length = 0
    for part in parts:
        held.append(part)
        length += len(part)
        if length >= size:
            yield "".join(held).encode()
            held, length = [], 0
    if held:
        yield "".join(held).encode()


def _cell(value: Any) -> str:
    return csv_cell(" ".join(value) if isinstance(value, list) else value)


def _line(values: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue()
