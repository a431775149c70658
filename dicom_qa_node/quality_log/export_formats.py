"""An export of the quality log as CSV, XLSX or Parquet, written row by row in bounded memory.

Text comes from headers of other people's machines. In every format its control characters are escaped; in CSV and XLSX
text that a spreadsheet would run as a formula has a quote in front.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from enum import StrEnum
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.quality_log.export_columns import CellKind, ExportColumn
from dicom_qa_node.quality_log.export_rows import Cell
from dicom_qa_node.safe_text import csv_cell, visible

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "MEDIA_TYPES",
    "SHEET_ROWS",
    "ExportFormat",
    "available_formats",
    "csv_parts",
    "parquet_parts",
    "require_format",
    "text_cell",
    "write_export",
    "write_workbook",
]


class ExportFormat(StrEnum):
    """The formats of files with the fixed columns."""

    CSV = "csv"
    XLSX = "xlsx"
    PARQUET = "parquet"


MEDIA_TYPES = {
    ExportFormat.CSV: "text/csv; charset=utf-8",
    ExportFormat.XLSX: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ExportFormat.PARQUET: "application/vnd.apache.parquet",
}
SHEET_ROWS = 1_048_575
"""Rows below the heading of a worksheet (Excel specifications and limits)."""
_LONGEST_CELL = 32_767
# A workbook counts its days from 1900.
_FIRST_YEAR = 1901
_NOT_XML = dict.fromkeys([0xFFFE, 0xFFFF, *range(0xD800, 0xE000)], "\ufffd")
_ROW_GROUP = 20_000

Row = tuple[Cell, ...]


def available_formats() -> tuple[ExportFormat, ...]:
    """Return the formats that this installation can write."""
    return tuple(item for item in ExportFormat if item is not ExportFormat.PARQUET or find_spec("pyarrow"))


def require_format(wanted: ExportFormat) -> None:
    """Raise `Misconfigured` where a format needs a package that is not installed."""
    if wanted not in available_formats():
        raise Misconfigured("Parquet needs the package pyarrow: install it by pip install 'dicom-qa-node[parquet]'")


def write_export(wanted: ExportFormat, columns: Sequence[ExportColumn], rows: Iterable[Row], file: BinaryIO) -> None:
    """Write a whole export to a file that can seek.

    Raises
    ------
    Misconfigured
        See `require_format`.
    """
    require_format(wanted)
    if wanted is ExportFormat.XLSX:
        write_workbook(columns, rows, file)
        return
    parts = csv_parts if wanted is ExportFormat.CSV else parquet_parts
    for part in parts(columns, rows):
        file.write(part)


def csv_parts(columns: Sequence[ExportColumn], rows: Iterable[Row], size: int = 1 << 16) -> Iterator[bytes]:
    """Yield CSV (RFC 4180, UTF-8) in pieces of about ``size`` bytes: a heading, then a line a row.

    Text is always quoted: a spreadsheet that separates by semicolons leaves it in one cell. Times are ISO 8601 in UTC.
    """
    buffer = io.StringIO(newline="")
    # QUOTE_NONNUMERIC quotes text; a number is a float or int, so it is written with its decimals by `_Fixed`.
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow([column.name for column in columns])
    for row in rows:
        writer.writerow([_csv_value(column, value) for column, value in zip(columns, row, strict=True)])
        if buffer.tell() >= size:
            yield buffer.getvalue().encode(errors="backslashreplace")
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue().encode(errors="backslashreplace")


class _Fixed(float):
    """A number that is written with a fixed number of decimals."""

    def __new__(cls, value: float, decimals: int) -> _Fixed:
        made = super().__new__(cls, value)
        made.decimals = decimals
        return made

    decimals: int

    def __repr__(self) -> str:
        return f"{float(self):.{self.decimals}f}"

    __str__ = __repr__


class _Empty(float):
    """An empty cell without quotes: the writer of ``csv`` quotes whatever is not a number."""

    def __str__(self) -> str:
        return ""


_EMPTY = _Empty()


def _csv_value(column: ExportColumn, value: Cell) -> object:
    if value is None or value == "":
        return _EMPTY
    if isinstance(value, bool):
        return "true" if value else "false"
    if column.kind is CellKind.NUMBER and isinstance(value, float | int):
        return _Fixed(value, column.decimals)
    if isinstance(value, dt.datetime):
        return f"{value.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
    return value.isoformat() if isinstance(value, dt.date) else value if isinstance(value, int) else csv_cell(value)


def write_workbook(columns: Sequence[ExportColumn], rows: Iterable[Row], file: BinaryIO, *, title: str = "log") -> None:
    """Write an XLSX workbook; rows beyond `SHEET_ROWS` follow on further sheets.

    Numbers and dates are cells of that kind; times stand in UTC, as their columns' names say, since a workbook knows no
    time zones.
    """
    from openpyxl import Workbook

    book = Workbook(write_only=True)
    sheet = _new_sheet(book, columns, title)
    count = sheets = 0
    try:
        for row in rows:
            if count == SHEET_ROWS:
                _end_sheet(sheet, columns, count)
                sheets, count = sheets + 1, 0
                sheet = _new_sheet(book, columns, f"{title} {sheets + 1}")
            sheet.append(_sheet_cells(sheet, columns, row))
            count += 1
        _end_sheet(sheet, columns, count)
        book.save(file)
    except BaseException:
        _discard(book)
        raise


def _new_sheet(book: Any, columns: Sequence[ExportColumn], title: str) -> Any:
    from openpyxl.utils import get_column_letter

    sheet = book.create_sheet(title)
    sheet.freeze_panes = "A2"
    for number, column in enumerate(columns, start=1):
        sheet.column_dimensions[get_column_letter(number)].width = max(10, min(24, len(column.name) + 2))
    sheet.append([text_cell(sheet, column.name, bold=True) for column in columns])
    return sheet


def _end_sheet(sheet: Any, columns: Sequence[ExportColumn], count: int) -> None:
    from openpyxl.utils import get_column_letter

    sheet.auto_filter.ref = f"A1:{get_column_letter(len(columns))}{count + 1}"
    sheet.close()


def _discard(book: Any) -> None:
    """Remove the temporary files of a workbook that is not saved."""
    from openpyxl.utils.exceptions import WorkbookAlreadySaved

    for sheet in book.worksheets:
        with suppress(WorkbookAlreadySaved):
            sheet.close()
        if Path(sheet._writer.out).exists():
            sheet._writer.cleanup()


def text_cell(sheet: Any, text: str, *, bold: bool = False) -> Any:
    """Return a cell of a write-only sheet that holds text, never a formula."""
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.styles import Font

    cell = WriteOnlyCell(sheet, "")
    # Set past the library's guess, which would make a formula of a text that begins with "=".
    cell._value, cell.data_type = csv_cell(text).translate(_NOT_XML)[:_LONGEST_CELL], "s"
    if bold:
        cell.font = Font(bold=True)
    return cell


def _sheet_cells(sheet: Any, columns: Sequence[ExportColumn], row: Row) -> list[Any]:
    return [_sheet_cell(sheet, column, value) for column, value in zip(columns, row, strict=True)]


def _sheet_cell(sheet: Any, column: ExportColumn, value: Cell) -> Any:
    from openpyxl.cell import WriteOnlyCell

    if value is None or value == "":
        return None
    if isinstance(value, dt.date) and value.year < _FIRST_YEAR:
        value = value.isoformat()
    if isinstance(value, str):
        return text_cell(sheet, value)
    if isinstance(value, dt.datetime):
        cell = WriteOnlyCell(sheet, value.astimezone(dt.UTC).replace(tzinfo=None, microsecond=0))
        cell.number_format = "yyyy-mm-dd hh:mm:ss"
        return cell
    if isinstance(value, dt.date):
        cell = WriteOnlyCell(sheet, value)
        cell.number_format = "yyyy-mm-dd"
        return cell
    if column.kind is CellKind.NUMBER:
        cell = WriteOnlyCell(sheet, value)
        cell.number_format = f"0.{'0' * column.decimals}" if column.decimals else "0"
        return cell
    return value


def parquet_parts(columns: Sequence[ExportColumn], rows: Iterable[Row], group: int = _ROW_GROUP) -> Iterator[bytes]:
    """Yield a Parquet file in pieces, ``group`` rows each; the columns' meanings are metadata of their fields."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(columns)
    sink = _Pipe()
    with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema, compression="zstd") as writer:
        for batch in _grouped(rows, group):
            turned = zip(*batch, strict=True)
            arrays = [
                pa.array([_arrow_value(value) for value in values], field.type)
                for field, values in zip(schema, turned, strict=True)
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            yield sink.take()
    yield sink.take()


class _Pipe(io.RawIOBase):
    """A file of which the written bytes are taken away again and again; it knows its place but cannot go back."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[bytes] = []
        self._place = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._held.append(part)
        self._place += len(part)
        return len(part)

    def tell(self) -> int:
        return self._place

    def take(self) -> bytes:
        """Return what was written since the last call."""
        held, self._held = b"".join(self._held), []
        return held


def _schema(columns: Sequence[ExportColumn]) -> pa.Schema:
    import pyarrow as pa

    types = {
        CellKind.TEXT: pa.string(),
        CellKind.NUMBER: pa.float64(),
        CellKind.INTEGER: pa.int64(),
        CellKind.DATE: pa.date32(),
        CellKind.MOMENT: pa.timestamp("ms", "UTC"),
        CellKind.FLAG: pa.bool_(),
    }
    return pa.schema(
        [pa.field(column.name, types[column.kind], metadata={"meaning": column.meaning}) for column in columns]
    )


def _arrow_value(value: Cell) -> Cell:
    if isinstance(value, str):
        return visible(value) or None
    return value


def _grouped(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    remaining = iter(rows)
    while group := list(islice(remaining, size)):
        yield group
