"""The log page's address as a query, and its rows as JSON."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from dicom_qa_node.db.log_tables import DeliveryMark, ReviewMark
from dicom_qa_node.domain.results import Grade, Severity
from dicom_qa_node.quality_log.filters import Cursor, LogOrder, LogQuery, LogRow
from dicom_qa_node.quality_log.search import MOST_COUNTED
from dicom_qa_node.safe_text import escaped_json

__all__ = [
    "NO_SCORE",
    "PERIODS",
    "LogRequest",
    "fields_of",
    "in_chunks",
    "json_parts",
    "log_request_of",
    "read_place",
    "write_place",
]

NO_SCORE = "none"
PERIODS = {"24h": 1, "7d": 7, "30d": 30, "90d": 90, "1y": 365}
_MOST_TEXT = 200
_NAMES = ("site", "scanner", "protocol", "modality", "kind", "body_part", "finding")
_FIRST_DIRECTION = {LogOrder.TIME: True, LogOrder.ACQUIRED: True, LogOrder.SCORE: False, LogOrder.DEVIATION: False}


@dataclass(frozen=True)
class LogRequest:
    """What an address asks for, and its words; ``problems`` are sentences about words that were not understood."""

    query: LogQuery
    cursor: Cursor | None
    words: Mapping[str, list[str]]
    problems: tuple[str, ...] = field(default_factory=tuple)

    @property
    def filtered(self) -> bool:
        """Whether anything but the order narrows the log."""
        return any(name not in ("sort", "dir", "by") for name in self.words)

    def address(self, **changes: str | None) -> str:
        """Return the query string with these words changed (None: left out), on the first page."""
        words = {name: list(values) for name, values in self.words.items()}
        for name, value in changes.items():
            words.pop(name, None)
            if value:
                words[name] = [value]
        return urlencode(words, doseq=True)

    def has(self, name: str, value: str) -> bool:
        """Whether a choice is on."""
        return value in self.words.get(name, [])

    def has_any(self, names: Sequence[str]) -> bool:
        """Whether one of these words is there."""
        return any(name in self.words for name in names)

    def word(self, name: str) -> str:
        """Return a single word, empty where it is not there."""
        return self.words.get(name, [""])[0]


def log_request_of(items: list[tuple[str, str]], *, patients: bool, now: dt.datetime) -> LogRequest:
    """Read the words of an address.

    Parameters
    ----------
    items
        Names and values as they stand in the address; unknown names and empty values are ignored.
    patients
        Whether words may be looked for in patients' names.
    """
    words: dict[str, list[str]] = {}
    for name, value in items:
        if name in _READERS and value.strip() and "\0" not in value:
            words.setdefault(name, []).append(value.strip()[:_MOST_TEXT])
    problems: list[str] = []
    values: dict[str, Any] = {}
    for name, found in words.items():
        try:
            values |= _READERS[name](found, now)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if values.pop("by", "") == "acquired":
        values = _by_acquisition(values)
    order = values.get("order", LogOrder.TIME)
    values.setdefault("descending", _FIRST_DIRECTION[order])
    place = next((value for name, value in items if name == "at"), "")
    return LogRequest(LogQuery(**values, patients=patients), read_place(place), words, tuple(problems))


def write_place(cursor: Cursor) -> str:
    """Return a cursor as one opaque word of an address."""
    place = json.dumps([cursor.key, cursor.result_id, cursor.back, cursor.count]).encode()
    return base64.urlsafe_b64encode(place).decode().rstrip("=")


def read_place(text: str) -> Cursor | None:
    """Return the cursor of a word, None (the first page) where it is none of ours."""
    try:
        key, number, back, count = json.loads(base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)))
        if not isinstance(number, int) or not isinstance(back, bool) or abs(number) >= 1 << 62:
            return None
        known = isinstance(count, int) and 0 <= count <= MOST_COUNTED + 1
        if isinstance(key, str) and len(key) == len("2026-01-31"):
            key = dt.date.fromisoformat(key).isoformat()
        elif isinstance(key, str):
            key = dt.datetime.fromisoformat(key).astimezone(dt.UTC).isoformat()
        elif key is not None:
            key = float(key)
    except (ValueError, TypeError, binascii.Error, RecursionError, OverflowError):
        return None
    return Cursor(key, number, back, count if known else None)


def _text(name: str) -> Callable[[list[str], dt.datetime], dict[str, Any]]:
    return lambda found, _now: {name: found[-1]}


def _score(name: str) -> Callable[[list[str], dt.datetime], dict[str, Any]]:
    def read(found: list[str], _now: dt.datetime) -> dict[str, Any]:
        value = float(found[-1].replace(",", "."))
        if not 0 <= value <= 4:
            raise ValueError("a score lies between 0 and 4")
        return {name: value}

    return read


def _mark(name: str, kind: type[DeliveryMark] | type[ReviewMark]) -> Callable[[list[str], dt.datetime], dict[str, Any]]:
    def read(found: list[str], _now: dt.datetime) -> dict[str, Any]:
        try:
            return {name: kind[found[-1].upper()]}
        except KeyError:
            raise ValueError(f"one of {', '.join(item.name.lower() for item in kind)}") from None

    return read


def _grades(found: list[str], _now: dt.datetime) -> dict[str, Any]:
    words = dict.fromkeys(word for text in found for word in text.split(","))
    return {"grades": tuple(None if word == NO_SCORE else Grade(word) for word in words)}


def _period(found: list[str], now: dt.datetime) -> dict[str, Any]:
    if found[-1] not in PERIODS:
        raise ValueError(f"one of {', '.join(PERIODS)}")
    return {"since": now - dt.timedelta(days=PERIODS[found[-1]])}


def _day(name: str, days: int) -> Callable[[list[str], dt.datetime], dict[str, Any]]:
    def read(found: list[str], _now: dt.datetime) -> dict[str, Any]:
        try:
            # A date is a day of the node's own time zone; a time may carry its zone.
            moment = dt.datetime.fromisoformat(found[-1])
            whole = len(found[-1]) <= len("2026-01-31")
            return {name: (moment + dt.timedelta(days=days if whole else 0)).astimezone(dt.UTC)}
        except (ValueError, OverflowError):
            raise ValueError("a date such as 2026-01-31") from None

    return read


def _by(found: list[str], _now: dt.datetime) -> dict[str, Any]:
    if found[-1] not in ("scored", "acquired"):
        raise ValueError("scored or acquired")
    return {"by": found[-1]}


def _by_acquisition(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with their times as dates of the acquisition, whole days of the node's own time zone."""
    since, until = values.pop("since", None), values.pop("until", None)
    days: dict[str, Any] = {"order": values.get("order", LogOrder.ACQUIRED)}
    if since is not None:
        days["acquired_from"] = since.astimezone().date()
    if until is not None:
        days["acquired_until"] = (until - dt.timedelta(microseconds=1)).astimezone().date()
    return values | days


def _direction(found: list[str], _now: dt.datetime) -> dict[str, Any]:
    if found[-1] not in ("asc", "desc"):
        raise ValueError("asc or desc")
    return {"descending": found[-1] == "desc"}


_READERS: dict[str, Callable[[list[str], dt.datetime], dict[str, Any]]] = {
    "q": _text("words"),
    **{name: _text(name) for name in _NAMES},
    "period": _period,
    "since": _day("since", 0),
    "until": _day("until", 1),
    "by": _by,
    "grade": _grades,
    "severity": lambda found, _now: {"severity": Severity(found[-1])},
    "delivery": _mark("delivery", DeliveryMark),
    "review": _mark("review", ReviewMark),
    "score_from": _score("score_from"),
    "score_to": _score("score_to"),
    "versions": lambda found, _now: {"all_versions": found[-1] == "all"},
    "sort": lambda found, _now: {"order": LogOrder(found[-1])},
    "dir": _direction,
}


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
        "grade_low": None if row.grade_low is None else row.grade_low.value,
        "decided_by": None if row.decided_by is None else row.decided_by.value,
        **{f"{kind.value}_score": score for kind, score in row.part_scores.items()},
        "qc": None if row.qc is None else row.qc.value,
        "why": row.why,
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
