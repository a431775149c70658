"""The dose of series, for pages, exports and the API: of the linked event where there is one, else of the images."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db import dose_tables as d
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.dose import DoseSource, LinkRule, SeriesDose
from dicom_qa_node.dose.size_specific_dose import size_specific_dose

__all__ = ["ReportRow", "dose_of", "dose_of_series", "doses_of_series", "latest_reports", "reports_of_study"]

_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One received dose report, for lists."""

    path: str
    sop_instance_uid: str
    study_instance_uid: str
    received_at: dt.datetime
    calling_ae: str
    events: int
    dlp_total_mgy_cm: float | None
    manufacturer: str
    model: str
    kept: bool


def dose_of(connection: sa.Connection, series_instance_uids: Sequence[str]) -> dict[str, SeriesDose]:
    """Return the dose of CT series by Series Instance UID; those that have not been scored are left out.

    CTDIvol in mGy and DLP in mGy.cm with the phantom are of the linked irradiation event (``source`` report), else of
    the image headers (``source`` header). SSDE is the node's own.
    """
    found: dict[str, SeriesDose] = {}
    wanted = list(dict.fromkeys(series_instance_uids))
    for start in range(0, len(wanted), _AT_ONCE):
        own = d.dose_series.c.series_instance_uid.in_(wanted[start : start + _AT_ONCE])
        for row in connection.execute(_query().where(own)):
            found[row.series_instance_uid] = _dose(row)
    return found


def doses_of_series(database: Database, series_instance_uids: Sequence[str]) -> dict[str, SeriesDose]:
    """Return what `dose_of` does, by a database."""
    with database.read() as connection:
        return dose_of(connection, series_instance_uids)


def dose_of_series(database: Database, series_instance_uid: str) -> SeriesDose | None:
    """Return the dose of one series, None for other modalities and before scoring."""
    with database.read() as connection:
        return dose_of(connection, [series_instance_uid]).get(series_instance_uid)


def reports_of_study(database: Database, study_instance_uid: str, limit: int = 50) -> list[ReportRow]:
    """Return the dose reports of a study, the latest first."""
    return _reports(database, d.dose_reports.c.study_instance_uid == study_instance_uid, limit)


def latest_reports(database: Database, limit: int = 50) -> list[ReportRow]:
    """Return the dose reports that came last."""
    return _reports(database, sa.true(), limit)


def _reports(database: Database, wanted: sa.ColumnElement[bool], limit: int) -> list[ReportRow]:
    columns = [d.dose_reports.c[name] for name in ReportRow.__slots__]
    query = sa.select(*columns).where(wanted).order_by(d.dose_reports.c.received_at.desc()).limit(limit)
    with database.read() as connection:
        return [ReportRow(**row._mapping) for row in connection.execute(query)]


def _query() -> sa.Select[Any]:
    event = d.dose_events.c
    joined = d.dose_series.outerjoin(d.dose_events, event.event_id == d.dose_series.c.event_id)
    return sa.select(
        d.dose_series,
        event.event_uid,
        event.protocol.label("event_protocol"),
        event.ctdi_vol_mgy.label("event_ctdi"),
        event.dlp_mgy_cm.label("event_dlp"),
        event.phantom_cm.label("event_phantom"),
        event.remarks.label("event_remarks"),
    ).select_from(joined)


def _ssde(row: sa.Row[Any]) -> float | None:
    """Return the SSDE of the event's CTDIvol at the measured diameter: the images state no CTDIvol of their own."""
    if row.ctdi_vol_mgy is not None:
        return None
    return size_specific_dose(row.event_ctdi, row.water_equivalent_diameter_mm, row.event_phantom, row.head)


def _dose(row: sa.Row[Any]) -> SeriesDose:
    linked = row.event_id is not None
    reported = linked and row.event_ctdi is not None
    source = DoseSource.REPORT if reported else DoseSource.HEADER if row.ctdi_vol_mgy is not None else DoseSource.NONE
    return SeriesDose(
        series_instance_uid=row.series_instance_uid,
        ctdi_vol_mgy=row.event_ctdi if reported else row.ctdi_vol_mgy,
        # The two belong together: DLP of the report beside a CTDIvol of the images would be of two origins.
        dlp_mgy_cm=row.event_dlp if reported else row.dlp_mgy_cm,
        phantom_cm=row.event_phantom if reported else row.phantom_cm,
        source=source,
        event_uid=row.event_uid or "",
        rule=LinkRule(row.rule) if row.rule else None,
        reason=row.reason,
        ssde_mgy=row.ssde_mgy if row.ssde_mgy is not None or not reported else _ssde(row),
        water_equivalent_diameter_mm=row.water_equivalent_diameter_mm,
        report_protocol=row.event_protocol or "",
        header_ctdi_vol_mgy=row.ctdi_vol_mgy,
        header_dlp_mgy_cm=row.dlp_mgy_cm,
        remarks=row.event_remarks or "",
    )
