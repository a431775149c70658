"""Takes results of QC phantoms into their own tables instead of the clinical charts; called by `chart_ingest`."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db import phantom_tables as p
from dicom_qa_node.domain.results import SeriesResult

__all__ = ["add_phantom_run", "forget_phantom_runs", "withdraw_phantom_runs"]


def add_phantom_run(
    connection: sa.Connection,
    row: Any,
    result: SeriesResult,
    scanner_id: int,
    acquired: dt.datetime,
    *,
    latest: bool,
) -> None:
    """Write the run and its values; runs of earlier versions of the series no longer count.

    Parameters
    ----------
    row
        ``result_id``, ``series_instance_uid``, ``version`` and ``protocol_name`` of the result.
    acquired
        Time of the acquisition in the zone of the scanners: its date is the day of the calendar.
    """
    phantom = result.qc_phantom
    assert phantom is not None
    values = {
        "result_id": row.result_id, "series_instance_uid": row.series_instance_uid, "version": row.version,
        "latest": latest, "scanner_id": scanner_id, "phantom": phantom.phantom, "kind": phantom.kind,
        "protocol": row.protocol_name, "day": acquired.date(), "at": acquired, "outcome": phantom.outcome.value,
        "remark": phantom.remark[:500],
    }  # fmt: skip
    withdraw_phantom_runs(connection, row.series_instance_uid, row.version)
    connection.execute(p.runs.insert().values(**values))
    measured = [
        {"result_id": row.result_id, "quantity": item.name, "meaning": item.meaning, "unit": item.unit,
         "value": item.value, "low": item.low, "high": item.high}
        for item in result.measurements
        if item.value is not None
    ]  # fmt: skip
    if measured:
        connection.execute(p.values.insert(), measured)


def withdraw_phantom_runs(connection: sa.Connection, series_instance_uid: str, below_version: int) -> None:
    """Mark the runs of earlier versions of a series: a later one has taken their place."""
    mine = (p.runs.c.series_instance_uid == series_instance_uid) & (p.runs.c.version < below_version)
    connection.execute(p.runs.update().where(mine & p.runs.c.latest).values(latest=False))


def forget_phantom_runs(connection: sa.Connection) -> None:
    """Empty what is derived from the results."""
    for table in (p.values, p.runs):
        connection.execute(table.delete())
