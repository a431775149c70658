"""Dose reports and series in the database: each event once, however many reports repeat it, and linked in either order.

Whoever writes a report or a series of a study links that study in the same transaction, holding its row of
``dose_studies``: of two that write at once the later sees what the earlier wrote.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db import dose_tables as d
from dicom_qa_node.db.engine import insert_ignore
from dicom_qa_node.domain.dose import (
    AcquisitionType,
    DoseHeader,
    DoseReport,
    IrradiationEvent,
    StoredDoseReport,
)
from dicom_qa_node.domain.results import SeriesResult
from dicom_qa_node.domain.series import SeriesHeader
from dicom_qa_node.dose.linking import StudySeries, link

__all__ = ["known_report_paths", "record_dose_reports", "record_series_dose"]

_MOST_EVENTS = 2000
_MOST_SERIES = 2000
_SEPARATOR = "\n"


def record_dose_reports(connection: sa.Connection, items: Sequence[StoredDoseReport], skew: dt.timedelta) -> None:
    """Write reports with their events, and link the series of their studies; what is known changes nothing."""
    # In one order, so that two receivers with reports of the same studies do not wait for each other.
    for item in sorted(items, key=lambda item: (item.report.study_instance_uid, item.path)):
        study = item.report.study_instance_uid
        _lock(connection, study, item.received_at + skew)
        insert_ignore(connection, d.dose_reports, [_report_row(item, skew)])
        # One that retention had deleted came again.
        again = (d.dose_reports.c.path == item.path) & (d.dose_reports.c.kept == sa.false())
        connection.execute(d.dose_reports.update().where(again).values(kept=True, received_at=item.received_at + skew))
        query = sa.select(d.dose_reports.c.report_id).where(d.dose_reports.c.path == item.path)
        number = int(connection.execute(query).scalar_one())
        for event in item.report.events:
            _upsert_event(connection, number, item, event)
        _link_study(connection, study)


def record_series_dose(
    connection: sa.Connection, facts: SeriesHeader, version: int, result: SeriesResult, at: dt.datetime
) -> None:
    """Write what a scored CT series states about its dose and what was measured, and link its study."""
    if result.modality != "CT":
        return
    uid, study = facts.series_instance_uid, facts.study_instance_uid
    _lock(connection, study, at)
    same = d.dose_series.c.series_instance_uid == uid
    known = connection.execute(sa.select(d.dose_series.c.version).where(same)).scalar_one_or_none()
    if known is not None and known > version:
        return
    row = _series_row(facts, version, result)
    if known is None:
        connection.execute(d.dose_series.insert().values(**row))
    else:
        connection.execute(d.dose_series.update().where(same).values(**row))
    _link_study(connection, study)


def known_report_paths(connection: sa.Connection, paths: Sequence[str]) -> set[str]:
    """Return which of these spool paths have a row that knows of the file."""
    report = d.dose_reports.c
    query = sa.select(report.path).where(report.path.in_(list(paths)), report.kept == sa.true())
    return set(connection.execute(query).scalars())


def _lock(connection: sa.Connection, study: str, at: dt.datetime) -> None:
    insert_ignore(connection, d.dose_studies, [{"study_instance_uid": study, "linked_at": at}])
    same = d.dose_studies.c.study_instance_uid == study
    connection.execute(sa.select(d.dose_studies.c.linked_at).where(same).with_for_update())


def _report_row(item: StoredDoseReport, skew: dt.timedelta) -> dict[str, Any]:
    report = item.report
    return {
        "path": item.path,
        "sop_class_uid": report.sop_class_uid,
        "sop_instance_uid": report.sop_instance_uid,
        "study_instance_uid": report.study_instance_uid,
        "patient_id": report.patient_id,
        "sha256": item.sha256,
        "size_bytes": item.size_bytes,
        "received_at": item.received_at + skew,
        "calling_ae": item.calling_ae,
        "content_at": report.content_at,
        "events": len(report.events),
        "dlp_total_mgy_cm": report.dlp_total_mgy_cm,
        "manufacturer": report.manufacturer,
        "model": report.model,
        "station": report.station,
    }


def _upsert_event(connection: sa.Connection, number: int, item: StoredDoseReport, event: IrradiationEvent) -> None:
    report, ranked = item.report, _rank(item.report, item.sha256)
    same = (d.dose_events.c.study_instance_uid == report.study_instance_uid) & (d.dose_events.c.event_key == event.key)
    known = connection.execute(sa.select(d.dose_events.c.ranked).where(same)).scalar_one_or_none()
    row = {
        "study_instance_uid": report.study_instance_uid,
        "event_key": event.key,
        "event_uid": event.uid,
        "report_id": number,
        "ranked": ranked,
        "patient_id": report.patient_id,
        "acquisition_type": event.acquisition_type.value,
        "protocol": event.protocol,
        "ctdi_vol_mgy": event.ctdi_vol_mgy,
        "phantom_cm": event.phantom_cm,
        "dlp_mgy_cm": event.dlp_mgy_cm,
        "ssde_mgy": event.ssde_mgy,
        "kv": " ".join(f"{value:g}" for value in event.kv),
        "remarks": "; ".join(event.remarks),
    }
    if known is None:
        connection.execute(d.dose_events.insert().values(**row))
    elif known < ranked:
        connection.execute(d.dose_events.update().where(same).values(**row))


def _rank(report: DoseReport, sha256: str) -> str:
    return f"{report.content_at} {report.sop_instance_uid} {sha256[:16]}"


def _series_row(facts: SeriesHeader, version: int, result: SeriesResult) -> dict[str, Any]:
    measured = {item.name: item.value for item in result.measurements}
    header = result.dose
    low, high = header.ctdi_vol_range or (None, None)
    return {
        "series_instance_uid": facts.series_instance_uid,
        "study_instance_uid": facts.study_instance_uid,
        "patient_id": facts.patient_id,
        "version": version,
        "event_uids": _SEPARATOR.join(header.event_uids),
        "protocol": facts.protocol_name,
        "ctdi_vol_mgy": measured.get("ctdi_vol"),
        "ctdi_low_mgy": low,
        "ctdi_high_mgy": high,
        "phantom_cm": header.phantom_cm,
        "dlp_mgy_cm": measured.get("dlp"),
        "ssde_mgy": measured.get("ssde"),
        "water_equivalent_diameter_mm": measured.get("water_equivalent_diameter"),
        "acquired_from": header.acquired_from,
        "acquired_until": header.acquired_until,
        "head": header.head,
    }


def _link_study(connection: sa.Connection, study: str) -> None:
    """Link every series of a study anew: what comes later may make a link ambiguous, or settle one."""
    events, series = d.dose_events.c, d.dose_series.c
    of_study = sa.select(d.dose_events).where(events.study_instance_uid == study).order_by(events.event_key)
    found = connection.execute(of_study.limit(_MOST_EVENTS)).all()
    own = sa.select(d.dose_series).where(series.study_instance_uid == study).order_by(series.series_instance_uid)
    rows = connection.execute(own.limit(_MOST_SERIES)).all()
    numbers = {row.event_key: row.event_id for row in found}
    known = [(row.patient_id, _event(row)) for row in found]
    everything = [_study_series(row) for row in rows]
    for row, item in zip(rows, everything, strict=True):
        # A Study Instance UID that two patients share is a fault that must not mix their doses.
        usable = [event for patient_id, event in known if _may_be_one_patient(patient_id, row.patient_id)]
        made = link(item, usable, everything)
        other = found and not usable
        reason = "the dose reports of the study name another patient" if other else made.reason
        values = {
            "event_id": None if made.event_key is None else numbers[made.event_key],
            "rule": "" if made.rule is None else made.rule.value,
            "reason": reason,
        }
        if any(getattr(row, name) != value for name, value in values.items()):
            same = series.series_instance_uid == row.series_instance_uid
            connection.execute(d.dose_series.update().where(same).values(**values))


def _may_be_one_patient(one: str, other: str) -> bool:
    first, second = (" ".join(name.casefold().split()) for name in (one, other))
    return not first or not second or first == second


def _study_series(row: sa.Row[Any]) -> StudySeries:
    stated = None if row.ctdi_low_mgy is None else (row.ctdi_low_mgy, row.ctdi_high_mgy)
    header = DoseHeader(
        tuple(filter(None, row.event_uids.split(_SEPARATOR))),
        stated,
        row.phantom_cm,
        row.acquired_from,
        row.acquired_until,
    )
    return StudySeries(row.series_instance_uid, header, row.protocol, row.ctdi_vol_mgy)


def _event(row: sa.Row[Any]) -> IrradiationEvent:
    return IrradiationEvent(
        key=row.event_key,
        uid=row.event_uid,
        acquisition_type=AcquisitionType(row.acquisition_type),
        protocol=row.protocol,
        ctdi_vol_mgy=row.ctdi_vol_mgy,
        phantom_cm=row.phantom_cm,
        dlp_mgy_cm=row.dlp_mgy_cm,
    )
