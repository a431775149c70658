"""The monthly report as an XLSX workbook: a sheet for each table."""

from __future__ import annotations

import io
from typing import Any

from dicom_qa_node.monthly_report.figures import MonthlyFigures
from dicom_qa_node.monthly_report.sections import Section, sections_of, summary_lines
from dicom_qa_node.quality_log.export_formats import text_cell

__all__ = ["as_workbook"]

_NOT_IN_TITLES = str.maketrans(dict.fromkeys("[]:*?/\\", " "))


def as_workbook(figures: MonthlyFigures) -> bytes:
    """Return the report as an XLSX file; text that a spreadsheet would run is quoted."""
    from openpyxl import Workbook

    book = Workbook(write_only=True)
    book.properties.title = figures.title
    book.properties.creator = f"dicom-qa-node {figures.version}"
    book.properties.created = book.properties.modified = figures.made_at.replace(tzinfo=None, microsecond=0)
    _summary(book.create_sheet("Summary"), figures)
    for section in sections_of(figures):
        _sheet(book.create_sheet(section.title.translate(_NOT_IN_TITLES)[:31]), section)
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def _summary(sheet: Any, figures: MonthlyFigures) -> None:
    sheet.column_dimensions["A"].width = 28
    sheet.column_dimensions["B"].width = 90
    sheet.append([text_cell(sheet, figures.title, bold=True)])
    facts = [
        ("Scanner", figures.scanner or "all scanners"),
        ("Institution", figures.site),
        ("Month", str(figures.month)),
        ("Node", f"{figures.node}, dicom-qa-node {figures.version}"),
        ("Made (UTC)", f"{figures.made_at:%Y-%m-%d %H:%M}"),
    ]
    for name, value in facts:
        sheet.append([text_cell(sheet, name), text_cell(sheet, value)])
    for line in summary_lines(figures):
        sheet.append([None, text_cell(sheet, line)])
    for grade, number in figures.grades.items():
        sheet.append([text_cell(sheet, grade), number])


def _sheet(sheet: Any, section: Section) -> None:
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.utils import get_column_letter

    sheet.freeze_panes = "A2"
    total = sum(section.widths)
    for number, width in enumerate(section.widths, start=1):
        sheet.column_dimensions[get_column_letter(number)].width = max(10, 130 * width / total)
    sheet.append([text_cell(sheet, word.replace("-\n", "").replace("\n", " "), bold=True) for word in section.heading])
    for row in section.rows:
        cells: list[Any] = []
        for value in row:
            if isinstance(value, str):
                cells.append(text_cell(sheet, value))
            elif isinstance(value, float):
                cell = WriteOnlyCell(sheet, round(value, section.decimals))
                cell.number_format = f"0.{'0' * section.decimals}"
                cells.append(cell)
            else:
                cells.append(value)
        sheet.append(cells)
    if not section.rows:
        sheet.append([text_cell(sheet, section.empty)])
