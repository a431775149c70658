"""Exports of the log page and of the API: the same filter, columns and files for both."""

from __future__ import annotations

from collections.abc import Iterator
from tempfile import TemporaryFile
from typing import BinaryIO

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.quality_log.export_columns import columns_for
from dicom_qa_node.quality_log.export_formats import (
    MEDIA_TYPES,
    ExportFormat,
    csv_parts,
    parquet_parts,
    require_format,
    write_workbook,
)
from dicom_qa_node.quality_log.export_rows import Cell, export_rows
from dicom_qa_node.quality_log.filters import LogQuery
from dicom_qa_node.web.access import account_of, note
from dicom_qa_node.web.site import site_of

__all__ = ["MOST_WORKBOOK_ROWS", "export_response"]

MOST_WORKBOOK_ROWS = 50_000
"""Rows of a workbook over HTTP: it is complete before its first byte leaves, about half a minute of one core."""
_CHUNK = 1 << 16


def export_response(request: Request, wanted: ExportFormat, query: LogQuery) -> Response:
    """Return the rows of a filter as a download, and note the export in the audit log.

    Raises
    ------
    HTTPException
        501 where the format needs a package that is not installed, 413 where a workbook would be too long.
    """
    try:
        require_format(wanted)
    except Misconfigured as error:
        raise HTTPException(501, str(error)) from error
    patients = account_of(request).sees_patients
    note(request, "log.export", kind="log", detail=f"{wanted.value} {request.url.query}"[:500])
    columns = columns_for(patients=patients)
    rows = export_rows(site_of(request).database, query, patients=patients)
    if wanted is ExportFormat.CSV:
        parts = csv_parts(columns, rows)
    elif wanted is ExportFormat.PARQUET:
        parts = parquet_parts(columns, rows)
    else:
        parts = _workbook_parts(request, query, patients=patients)
    headers = {"Content-Disposition": f'attachment; filename="quality-log.{wanted.value}"'}
    return StreamingResponse(parts, media_type=MEDIA_TYPES[wanted], headers=headers)


def _workbook_parts(request: Request, query: LogQuery, *, patients: bool) -> Iterator[bytes]:
    rows = export_rows(site_of(request).database, query, patients=patients, limit=MOST_WORKBOOK_ROWS + 1)
    file = TemporaryFile()  # noqa: SIM115 - closed when its last part is sent
    try:
        write_workbook(columns_for(patients=patients), _few(rows), file)
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return _read_out(file)


def _few(rows: Iterator[tuple[Cell, ...]]) -> Iterator[tuple[Cell, ...]]:
    for count, row in enumerate(rows, start=1):
        if count > MOST_WORKBOOK_ROWS:
            raise HTTPException(
                413,
                f"A workbook holds {MOST_WORKBOOK_ROWS:,} series here. Narrow the filter, take CSV or Parquet, or run: "
                "dicom-qa-node log --format xlsx --output FILE",
            )
        yield row


def _read_out(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while part := file.read(_CHUNK):
            yield part
