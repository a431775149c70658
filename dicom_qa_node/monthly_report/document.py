"""The monthly report as PDF (A4, by fpdf2): tables that break over pages, and charts as vectors.

The same figures give the same bytes.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from fpdf import FPDF
from fpdf.enums import Align, TableBordersLayout, TableCellFillMode, XPos, YPos
from fpdf.fonts import FontFace

from dicom_qa_node.canvas import Glyphs
from dicom_qa_node.monthly_report.figures import GRADE_ROWS, MonthlyFigures, ScannerMonth
from dicom_qa_node.monthly_report.sections import Section, rows_of, sections_of, summary_lines, with_trend
from dicom_qa_node.safe_text import visible

__all__ = ["as_pdf"]

_FONTS = Path(str(files("dicom_qa_node.canvas"))) / "fonts"
_FAMILY = "DejaVu"
_INK, _MUTED, _RULE, _SHADE = (28, 32, 38), (96, 104, 114), (200, 206, 213), (243, 245, 247)
_ACCENT, _BAND = (24, 90, 157), (205, 222, 239)
_GRADE_COLOURS = {
    "diagnostic": (46, 125, 50),
    "diagnostic–limited": (156, 190, 90),
    "limited": (232, 163, 23),
    "limited–non-diagnostic": (224, 112, 48),
    "non-diagnostic": (186, 32, 38),
    "no score": (170, 176, 184),
}
_MARGIN = 15.0
_TALL, _CHARTS_A_ROW = 38.0, 2


def as_pdf(figures: MonthlyFigures) -> bytes:
    """Return the report as a PDF file."""
    pdf = _Report(figures)
    pdf.head()
    pdf.grades()
    sections = sections_of(figures)
    pdf.table_of(sections[0])
    pdf.trends(with_trend(figures))
    for section in sections[1:]:
        pdf.table_of(section)
    return bytes(pdf.output())


class _Report(FPDF):
    """The pages; lengths are in mm."""

    def __init__(self, figures: MonthlyFigures) -> None:
        super().__init__(format="A4")
        self._figures, self._glyphs = figures, Glyphs()
        self.set_title(f"{figures.title}{f', {figures.scanner}' if figures.scanner else ''}")
        self.set_lang("en")
        self.set_producer("dicom-qa-node")
        self.set_creation_date(figures.made_at)
        self.set_margins(_MARGIN, _MARGIN)
        self.c_margin = 0.0
        self.set_auto_page_break(True, 18)
        self.add_font(_FAMILY, fname=_FONTS / "DejaVuSans.ttf")
        self.add_font(_FAMILY, "B", fname=_FONTS / "DejaVuSans-Bold.ttf")
        self._add_other_scripts()
        self.set_text_color(*_INK)
        self.set_draw_color(*_RULE)
        self.add_page()

    def footer(self) -> None:
        """Write node, version, time and the number of the page; called by the library."""
        self.set_y(-12)
        self.set_font(_FAMILY, size=7)
        self.set_text_color(*_MUTED)
        figures = self._figures
        made = f"{figures.made_at.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"
        words = f"{figures.node}, dicom-qa-node {figures.version}, made {made}"
        self.cell(0, 5, self._text(words))
        self.set_x(_MARGIN)
        self.cell(0, 5, f"Page {self.page_no()} of {{nb}}", align=Align.R)
        self.set_text_color(*_INK)

    def head(self) -> None:
        """Write the headline and the sentences below it."""
        figures = self._figures
        self.set_font(_FAMILY, "B", 18)
        self.cell(0, 9, self._text(figures.title), new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.set_font(_FAMILY, size=10)
        self.set_text_color(*_MUTED)
        place = ", ".join(filter(None, (figures.scanner or "all scanners", figures.site)))
        self.cell(0, 6, self._text(place), new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.set_text_color(*_INK)
        self.ln(2)
        for line in summary_lines(figures):
            self.multi_cell(0, 5, self._text(line), new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(2)

    def grades(self) -> None:
        """Draw the grades of each scanner as a bar, with its legend."""
        if not self._figures.scanners:
            return
        self._title("Grades", room=12.0)
        self._legend()
        for item in self._figures.scanners:
            self._grade_bar(item)
        self.ln(3)

    def trends(self, scanners: Sequence[ScannerMonth]) -> None:
        """Draw the weekly scores of the scanners, two charts beside each other."""
        if not scanners:
            return
        self._title("Weekly score of the busiest protocol", room=_TALL + 14)
        self._note("Median, with the band between the quartiles, over half a year.")
        width = (self.epw - 6) / _CHARTS_A_ROW
        for number, item in enumerate(scanners):
            column = number % _CHARTS_A_ROW
            if column == 0 and self.get_y() + _TALL + 10 > self.page_break_trigger:
                self.add_page()
            top = self.get_y()
            self._trend(item, _MARGIN + column * (width + 6), top, width)
            self.set_y(top if column == 0 and number + 1 < len(scanners) else top + _TALL + 10)

    def table_of(self, section: Section) -> None:
        """Write one table, its heading again on each page."""
        self._title(section.title, room=22.0)
        if section.note:
            self._note(section.note)
        if not section.rows:
            self.set_font(_FAMILY, size=8)
            self.cell(0, 5, section.empty, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
            self.ln(2)
            return
        self.set_font(_FAMILY, size=7)
        self.set_fill_color(255, 255, 255)
        align = tuple("RIGHT" if _numeric(cell) else "LEFT" for cell in section.rows[0])
        with self.table(
            col_widths=section.widths, text_align=align, line_height=4.0, padding=(0.6, 1.2),
            borders_layout=TableBordersLayout.HORIZONTAL_LINES, cell_fill_color=_SHADE,
            cell_fill_mode=TableCellFillMode.EVEN_ROWS,
            headings_style=FontFace(emphasis="BOLD", color=_INK, fill_color=(255, 255, 255)), width=self.epw,
        ) as table:  # fmt: skip
            table.row(section.heading)
            for cells in rows_of(section):
                table.row([self._text(cell) for cell in cells])
        self.ln(3)

    # -- pieces ----------------------------------------------------------------------------------------------

    def _title(self, text: str, *, room: float) -> None:
        if self.get_y() + room > self.page_break_trigger:
            self.add_page()
        self.ln(2)
        self.set_font(_FAMILY, "B", 11)
        self.cell(0, 6, self._text(text), new_x=XPos.LMARGIN, new_y=YPos.NEXT)

    def _note(self, text: str) -> None:
        self.set_font(_FAMILY, size=7.5)
        self.set_text_color(*_MUTED)
        self.multi_cell(0, 4, self._text(text), new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.set_text_color(*_INK)
        self.ln(1)

    def _legend(self) -> None:
        self.set_font(_FAMILY, size=7.5)
        y = self.get_y()
        for row in GRADE_ROWS:
            self.set_fill_color(*_GRADE_COLOURS[row])
            self.rect(self.get_x(), y + 0.8, 3, 3, style="F")
            self.set_x(self.get_x() + 4)
            self.cell(self.get_string_width(row) + 5, 4.6, row)
        self.ln(6)

    def _grade_bar(self, item: ScannerMonth) -> None:
        if self.get_y() + 7 > self.page_break_trigger:
            self.add_page()
        self.set_font(_FAMILY, size=8)
        y, left, width = self.get_y(), _MARGIN + 42, self.epw - 42 - 22
        self.cell(41, 5, self._fitting(item.name, 40))
        for row in GRADE_ROWS:
            part = width * item.grades.get(row, 0) / item.series
            if part:
                self.set_fill_color(*_GRADE_COLOURS[row])
                self.rect(left, y + 0.5, part, 4, style="F")
                left += part
        self.set_xy(self.w - _MARGIN - 21, y)
        self.cell(21, 5, f"{item.series:,} series", align=Align.R, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(0.8)

    def _trend(self, item: ScannerMonth, left: float, top: float, width: float) -> None:
        assert item.trend is not None
        weeks = item.trend.weeks
        self.set_xy(left, top)
        self.set_font(_FAMILY, "B", 7.5)
        self.cell(width, 4, self._fitting(f"{item.name}: {item.trend.protocol}", width))
        base, height, inset = top + 5 + _TALL - 6, _TALL - 6, 7.0
        low = max(0.0, min(q1 for _, q1, _, _ in weeks) - 0.3)
        high = min(4.0, max(q3 for _, _, _, q3 in weeks) + 0.3)
        first, last = weeks[0][0], weeks[-1][0]
        span = max((last - first).days, 1)

        def place(day: dt.date, value: float) -> tuple[float, float]:
            across = (day - first).days / span
            return left + inset + across * (width - inset), base - (value - low) / (high - low) * height

        self._axis(left, base, width, height, inset, low, high)
        band = [place(day, q1) for day, q1, _, _ in weeks]
        band += [place(day, q3) for day, _, _, q3 in reversed(weeks)]
        self.set_fill_color(*_BAND)
        self.polygon(band, style="F")
        self.set_draw_color(*_ACCENT)
        self.set_line_width(0.5)
        self.polyline([place(day, median) for day, _, median, _ in weeks])
        self.set_line_width(0.2)
        self.set_draw_color(*_RULE)
        self.set_font(_FAMILY, size=6.5)
        self.set_text_color(*_MUTED)
        self.text(left + inset, base + 3.6, f"{first}")
        shown = f"{last}"
        self.text(left + width - self.get_string_width(shown), base + 3.6, shown)
        self.set_text_color(*_INK)

    def _axis(
        self, left: float, base: float, width: float, height: float, inset: float, low: float, high: float
    ) -> None:
        self.set_draw_color(*_RULE)
        self.set_font(_FAMILY, size=6.5)
        self.set_text_color(*_MUTED)
        step = 0.5 if high - low > 0.8 else 0.25
        value = math.ceil(low / step) * step
        while value <= high:
            y = base - (value - low) / (high - low) * height
            self.line(left + inset, y, left + width, y)
            self.text(left, y + 0.9, f"{value:.2f}".rstrip("0").rstrip("."))
            value += step
        self.set_text_color(*_INK)

    def _fitting(self, text: str, room: float) -> str:
        shown = self._text(text)
        while shown and self.get_string_width(f"{shown}…") > room:
            shown = shown[:-1]
        return shown if shown == self._text(text) else f"{shown}…"

    def _text(self, text: str) -> str:
        """Return what the fonts can draw, in one line without control characters."""
        return self._glyphs.drawable(visible(text))

    def _add_other_scripts(self) -> None:
        """Add the fonts of the system that names of scanners and protocols need beside DejaVu Sans."""
        figures = self._figures
        words = {name for item in figures.scanners for name in (item.name, item.model, *_protocols(item))}
        words |= {text for line in figures.events for text in (line.text, line.author)}
        words |= {line.acknowledged for line in figures.troubles} | {figures.site, *figures.reviews.by_reviewer}
        runs = self._glyphs.runs(self._glyphs.drawable(" ".join(sorted(words)))) or []
        others = dict.fromkeys(path for _, path in runs if path.parent != _FONTS)
        for number, path in enumerate(others):
            if path.suffix.lower() in (".ttf", ".otf"):
                self.add_font(f"Other{number}", fname=path)
        fallback = [name for name in self.fonts if name.startswith("other")]
        if fallback:
            self.set_fallback_fonts(fallback, exact_match=False)


def _numeric(cell: str | float | None) -> bool:
    return not isinstance(cell, str) or cell.endswith(" %")


def _protocols(item: ScannerMonth) -> list[str]:
    trend = [] if item.trend is None else [item.trend.protocol]
    return [*(found.protocol for found in item.protocols), *trend]
