"""Fills a database of any schema revision with the rows of a working node, in plain SQL by its reflected tables.

    with database.write() as connection:
        counts = fill(connection)

What a revision does not know yet is left out. Tables and columns that nobody described here get made-up values by
their type, so that a later revision is covered without a line here.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.records import (
    Finding,
    Grade,
    Measurement,
    ModelRef,
    ScoredSlice,
    SeriesKind,
    SeriesResult,
    Severity,
    result_to_json,
)
from dicom_qa_node.store.queue import queue_of

__all__ = ["IMAGES", "PATIENT", "SERIES", "STATES", "T0", "fill", "rows_of", "tables_of"]

# Naive, as the database keeps UTC.
T0 = dt.datetime(2025, 3, 1, 7, 30, 0, 123456, tzinfo=dt.UTC).replace(tzinfo=None)
PATIENT = "Mustermann^Erika"
IMAGES = 4
STATES = ("RECEIVING", "COMPLETE", "SCORED", "REPORTED", "DELIVERED", "DELIVERED", "PARKED")
SERIES = tuple(f"1.2.826.0.1.{number}" for number in range(1, len(STATES) + 1))
_MODEL = ModelRef("ms_iqa_small", "1.0", "ab" * 32)
_MADE_UP = 3
_SKIPPED = ("alembic_version", "log_text", "procrastinate_")

Row = dict[str, Any]


def tables_of(connection: sa.Connection) -> list[sa.Table]:
    """Return the tables of the node that are there now, those that others refer to first."""
    metadata = sa.MetaData()
    names = [name for name in sa.inspect(connection).get_table_names() if not name.startswith(_SKIPPED)]
    metadata.reflect(connection, only=names)
    return metadata.sorted_tables


def fill(connection: sa.Connection) -> dict[str, int]:
    """Write the rows; return how many each table has. Rows are numbered by the database, from 1 in their order."""
    known = _known_rows()
    for table in tables_of(connection):
        rows = known.get(table.name) or [{} for _ in range(_MADE_UP)]
        for number, row in enumerate(rows, start=1):
            connection.execute(table.insert().values(_complete(connection, table, row, number)))
    if sa.inspect(connection).has_table("log_text"):
        _index_words(connection)
    if sa.inspect(connection).has_table("procrastinate_jobs"):
        _queue_waiting(connection)
    return {table.name: len(rows_of(connection, table)) for table in tables_of(connection)}


def rows_of(connection: sa.Connection, table: sa.Table) -> list[tuple[Any, ...]]:
    """Return every row of a table in the order of its key, in the columns of ``table``."""
    query = sa.select(table).order_by(*table.primary_key.columns)
    return [tuple(row) for row in connection.execute(query)]


def _complete(connection: sa.Connection, table: sa.Table, row: Row, number: int) -> Row:
    values = {name: value for name, value in row.items() if name in table.c}
    for column in table.c:
        needed = not column.nullable and column.server_default is None
        if column.name not in values and not _numbers_itself(column) and (needed or not row):
            values[column.name] = _made_up(connection, column, number)
    return values


def _numbers_itself(column: sa.Column[Any]) -> bool:
    alone = column.primary_key and len(column.table.primary_key.columns) == 1
    return alone and isinstance(column.type, sa.Integer) and not column.foreign_keys


def _made_up(connection: sa.Connection, column: sa.Column[Any], number: int) -> Any:
    for key in column.foreign_keys:
        other = key.column
        if other.table is not column.table:
            found = list(connection.execute(sa.select(other).order_by(other)).scalars())
            return found[(number - 1) % len(found)]
        return None
    kind = column.type
    if isinstance(kind, sa.Boolean):
        return False
    if isinstance(kind, sa.DateTime):
        return T0 + dt.timedelta(minutes=number)
    if isinstance(kind, sa.Date):
        return T0.date() + dt.timedelta(weeks=number)
    if isinstance(kind, sa.Integer):
        return number
    if isinstance(kind, (sa.Float, sa.Numeric)):
        return number + 0.5
    if isinstance(kind, sa.LargeBinary):
        return bytes([number] * 8)
    if isinstance(kind, sa.JSON):
        return {"made up": number}
    return f"{column.table.name} {column.name} {number}"[: getattr(kind, "length", None)]


def _index_words(connection: sa.Connection) -> None:
    key = "rowid" if connection.dialect.name == "sqlite" else "result_id"
    statement = sa.text(f"INSERT INTO log_text ({key}, words) VALUES (:number, :words)")
    words = [{"number": number, "words": f"mustermann erika pat {number}"} for number, _, _ in _scored()]
    connection.execute(statement, words)


def _queue_waiting(connection: sa.Connection) -> None:
    waiting = "SELECT job_id, series_instance_uid FROM jobs WHERE state = 'READY' ORDER BY job_id"
    for job_id, uid in connection.execute(sa.text(waiting)).all():
        queue_of(connection).put(job_id, uid, "default", 0)


def _at(minutes: float) -> dt.datetime:
    return T0 + dt.timedelta(minutes=minutes)


def _known_rows() -> dict[str, list[Row]]:
    return {
        "series": [_series(number) for number in range(len(SERIES))],
        "instances": list(_instances()),
        "associations": [_association(number) for number in range(len(SERIES))],
        "series_associations": [
            {"series_instance_uid": uid, "association_id": f"a{number}"} for number, uid in enumerate(SERIES)
        ],
        "quarantine": [
            {"path": "quarantine/1.dcm", "reason": "no pixel data", "calling_ae": "CT1", "sop_instance_uid": "1.9",
             "at": T0},
        ],
        "events": [
            {"at": _at(number), "series_instance_uid": uid, "version": 1, "old_state": "RECEIVING",
             "new_state": STATES[number], "reason": "on its way", "actor": "test"}
            for number, uid in enumerate(SERIES)
        ],
        "jobs": list(_jobs()),
        "results": [_result(number, uid, version) for number, uid, version in _scored()],
        "reports": [_report(uid, version) for uid, version in _reported()],
        "outbox": list(_outbox()),
        "heartbeats": [
            {"name": "receive", "role": "receive", "host": "qa", "pid": 77, "started_at": T0, "seen_at": _at(1)}
        ],
        "commit_requests": [
            {"transaction_uid": "1.3.1", "report_uid": _report_uid(SERIES[4], 1), "target": "pacs", "requested_at": T0,
             "sop_instance_uid": _report_uid(SERIES[4], 1)}
        ],
        "commit_replies": [
            {"transaction_uid": "1.3.2", "calling_ae": "CT1", "host": "10.0.0.1", "items": [["1.2", "1.3", None]],
             "created_at": T0, "next_attempt_at": T0}
        ],
        "report_headers": [_report_header(uid, version) for uid, version in _reported()],
        "accounts": [
            {"name": "erna", "full_name": "Erna Admin", "role": "admin", "password_hash": "x",
             "created_at": T0},
            {"name": "rolf", "full_name": "Rolf Reviewer", "role": "reviewer", "created_at": T0},
        ],
        "audit_log": [
            {"at": _at(number), "event": "view_series", "outcome": "success", "actor": "erna", "role": "admin",
             "address": "10.0.0.9", "kind": "series", "ident": uid, "study_instance_uid": "1.2.826.0.2",
             "patient_id": "PAT-1", "detail": ""}
            for number, uid in enumerate(SERIES)
        ],
        "log_facets": [
            {"digest": "0" * 32, "site": "Klinik", "scanner": "CT7", "model": "Scan 5", "modality": "CT",
             "kind": "ct", "body_part": "CHEST", "protocol": "Thorax", "description": "Thorax 3.0",
             "study_description": "CT thorax", "words": " klinik ct7 thorax ", "rows": len(list(_scored()))}
        ],
        "log_findings": [{"bit": 0, "key": "noise_high"}],
        "log_rows": [_log_row(number, uid, version) for number, uid, version in _scored()],
        "log_found": [{"bit": 0, "result_id": number} for number, _, _ in _scored()],
        "reviews": [
            {"series_instance_uid": SERIES[4], "version": 1, "at": _at(90), "reviewer": "rolf", "agrees": False,
             "score": 1.5, "reason": "motion", "comment": "doubled edges"},
            {"series_instance_uid": SERIES[5], "version": 2, "at": _at(95), "reviewer": "erna", "agrees": True},
        ],
        "scanners": [
            {"key": "CT7", "name": "CT7", "manufacturer": "ACME", "model": "Scan 5", "station": "CT7",
             "serial": "55-1", "institution": "Klinik", "first_at": T0, "last_at": _at(60)}
        ],
        "alerts": [
            {"occasion": f"series {SERIES[6]}", "rule": "parked", "subject": "node", "text": "A series is parked.",
             "scanner": "CT7", "series_instance_uid": SERIES[6], "created_at": T0}
        ],
        "alert_messages": [
            {"idempotency_key": "k1", "channel": "mail", "test": False, "urgent": False,
             "state": "PENDING", "created_at": T0, "not_before": T0}
        ],
        "alert_message_alerts": [{"message_id": 1, "alert_id": 1}],
    }  # fmt: skip


def _series(number: int) -> Row:
    return {
        "series_instance_uid": SERIES[number], "study_instance_uid": "1.2.826.0.2", "modality": "CT",
        "patient_id": f"PAT-{number + 1}", "patient_name": PATIENT, "patient_birth_date": "19550101",
        "study_date": "20250301", "study_description": "CT thorax", "series_description": "Thorax 3.0",
        "protocol_name": "Thorax", "body_part_examined": "CHEST", "station_name": "CT7", "institution_name": "Klinik",
        "manufacturer": "ACME", "manufacturer_model_name": "Scan 5", "device_serial_number": "55-1",
        "calling_ae": "CT1", "state": STATES[number], "state_since": _at(number), "version": 1 + (number == 5),
        "received": IMAGES, "kept": IMAGES, "expected": {"": IMAGES}, "first_received_at": T0,
        "last_received_at": _at(number),
        "parked_reason": "the archive refuses it" if STATES[number] == "PARKED" else "",
    }  # fmt: skip


def _instances() -> Iterator[Row]:
    for number, uid in enumerate(SERIES):
        for image in range(IMAGES):
            yield {
                "series_instance_uid": uid, "sop_instance_uid": f"{uid}.{image}",
                "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2", "transfer_syntax_uid": "1.2.840.10008.1.2.1",
                "path": f"instances/{number:02x}/{image}.dcm", "sha256": "0" * 64, "size_bytes": 525_000,
                "received_at": _at(number), "calling_ae": "CT1", "association_id": f"a{number}",
                "instance_number": image + 1, "number_of_frames": 1, "expected": IMAGES, "expected_group": "",
                "conflict": False,
            }  # fmt: skip


def _association(number: int) -> Row:
    return {
        "association_id": f"a{number}", "calling_ae": "CT1", "host": "10.0.0.1", "receiver": "receive-1",
        "opened_at": _at(number), "closed_at": _at(number + 1), "aborted": False,
    }  # fmt: skip


def _jobs() -> Iterator[Row]:
    for number, uid in enumerate(SERIES[1:], start=1):
        yield {
            "kind": "score", "series_instance_uid": uid, "version": 1 + (number == 5),
            "state": "READY" if STATES[number] == "COMPLETE" else "DONE", "attempts": int(number > 1),
            "created_at": _at(number), "available_at": _at(number),
        }  # fmt: skip


def _scored() -> Iterator[tuple[int, str, int]]:
    """Yield number, series and version of each result; the sixth series was scored twice."""
    yield from enumerate_from_one([(uid, 1) for uid in SERIES[2:]] + [(SERIES[5], 2)])


def enumerate_from_one(pairs: Sequence[tuple[str, int]]) -> Iterator[tuple[int, str, int]]:
    for number, (uid, version) in enumerate(pairs, start=1):
        yield number, uid, version


def _reported() -> list[tuple[str, int]]:
    return [(uid, version) for _, uid, version in _scored() if uid != SERIES[2]]


def _report_uid(uid: str, version: int) -> str:
    return f"2.25.{SERIES.index(uid)}.{version}"


def _result(number: int, uid: str, version: int) -> Row:
    return {
        "series_instance_uid": uid, "version": version, "scored_at": _at(30 + number), "modality": "CT", "kind": "ct",
        "score": 2.5, "grade": "limited", "scanner": "CT7", "model": "ms_iqa_small 1.0", "model_sha256": _MODEL.sha256,
        "payload": _payload(uid),
    }  # fmt: skip


def _payload(uid: str) -> str:
    slices = tuple(
        ScoredSlice(f"{uid}.{i}", "1.2.840.10008.5.1.4.1.1.2", i, -20 + 5.0 * i, 2.5, 0.25, "body")
        for i in range(IMAGES)
    )
    found = (Finding("noise_high", Severity.WARNING, "The noise is above the usual range.", "31 HU"),)
    measured = (Measurement("noise_hu", "Global noise level", 31.25, "[hnsf'U]", "lower is better"),)
    verdict = SeriesResult(
        uid, "CT", SeriesKind.CT, 2.5, (2.1, 2.9), Grade.LIMITED, slices, measured, found, _MODEL, IMAGES
    )
    # An older version wrote no field that came later.
    return json.dumps({key: value for key, value in json.loads(result_to_json(verdict)).items() if value is not None})


def _log_row(number: int, uid: str, version: int) -> Row:
    delivery = {"REPORTED": 1, "DELIVERED": 2, "PARKED": 3}.get(STATES[SERIES.index(uid)], 0)
    return {
        "result_id": number, "series_instance_uid": uid, "version": version,
        "latest": 0 if (uid, version) == (SERIES[5], 1) else 1, "scored_at": _at(30 + number), "facet_id": 1,
        "score": 2.5, "low": 2.1, "high": 2.9, "grade": 2, "severity": 2, "findings": 1, "delivery": delivery,
    }  # fmt: skip


def _report(uid: str, version: int) -> Row:
    return {
        "sop_instance_uid": _report_uid(uid, version), "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.34",
        "report_series_uid": f"2.25.7.{SERIES.index(uid)}", "series_instance_uid": uid, "version": version,
        "path": f"reports/{SERIES.index(uid)}-{version}.dcm", "created_at": _at(40 + version),
        "predecessor_uid": _report_uid(uid, 1) if version > 1 else None,
    }  # fmt: skip


def _report_header(uid: str, version: int) -> Row:
    return {
        "sop_instance_uid": _report_uid(uid, version), "layout": 1, "patient_id": "PAT-1",
        "study_instance_uid": "1.2.826.0.2", "series_instance_uid": f"2.25.7.{SERIES.index(uid)}",
        "accession_number": "", "study_date": "20250301", "transfer_syntax_uid": "1.2.840.10008.1.2.1", "facts": {},
        "header": "{}",
    }  # fmt: skip


def _outbox() -> Iterator[Row]:
    states = {"REPORTED": "PENDING", "DELIVERED": "DELIVERED", "PARKED": "PARKED"}
    for uid, version in _reported():
        state = states[STATES[SERIES.index(uid)]]
        yield {
            "report_uid": _report_uid(uid, version), "series_instance_uid": uid, "target": "pacs", "state": state,
            "attempts": int(state != "PENDING"), "created_at": _at(41), "next_attempt_at": _at(41),
            "last_answer": "" if state == "PENDING" else "0x0000 success",
            "delivered_at": _at(42) if state == "DELIVERED" else None, "study_instance_uid": "1.2.826.0.2",
        }  # fmt: skip
