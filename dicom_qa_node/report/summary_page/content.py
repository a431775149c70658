"""Gathers what stands on the companion from verdict, headers, pictures and quality log, and draws it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from pydicom import Dataset
from pydicom.valuerep import PersonName

from dicom_qa_node.canvas import Drawn, Glyphs
from dicom_qa_node.config import Config
from dicom_qa_node.report.source_headers import Sources
from dicom_qa_node.report.sr_document import ReportRequest, local_time
from dicom_qa_node.report.summary_page.page_layout import Page, draw_page
from dicom_qa_node.report.summary_page.wording import Words
from dicom_qa_node.spool.rendered_images import read_manifest

__all__ = ["companion_page", "shown_name"]


def companion_page(
    request: ReportRequest, sources: Sources, folder: Path, trend: Sequence[float], config: Config
) -> Drawn:
    """Return the page of one report.

    Parameters
    ----------
    folder
        Where the pictures of this version lie; what is missing there is left out of the page.
    trend
        Scores of the scanner's earlier series, oldest first.
    """
    words, glyphs, main = Words(config.report.language), _glyphs(config.report.font), sources.main
    page = Page(
        result=request.result,
        version=request.version,
        scored_at=local_time(request.scored_at, main),
        institution=config.report.institution_name or _text(main, "InstitutionName"),
        head=_head(main, words, glyphs),
        folder=folder,
        manifest=read_manifest(folder),
        trend=trend,
        scanner=_scanner(main),
        grades=config.score.grades,
    )
    return draw_page(page, words, glyphs)


def shown_name(name: PersonName, glyphs: Glyphs) -> str:
    """Return a patient's name in the scripts that can be drawn.

    The ideographic group comes first with the alphabetic one in brackets (PS3.5 6.2.1.2); a group with a character
    that no font has is left out whole, and where none is left only its drawable characters stay.
    """
    alphabetic, ideographic = (_spaced(str(group)) for group in (name.alphabetic, name.ideographic))
    groups = [group for group in (ideographic, alphabetic) if group and glyphs.can_draw(group)]
    if len(groups) == 2:
        return f"{groups[0]} ({groups[1]})"
    return groups[0] if groups else _spaced(glyphs.drawable(alphabetic))


def _spaced(group: str) -> str:
    return " ".join(group.replace("^", " ").split())


@cache
def _glyphs(configured: Path | None) -> Glyphs:
    return Glyphs(configured)


def _head(main: Dataset, words: Words, glyphs: Glyphs) -> list[tuple[str, str]]:
    name = main.PatientName
    number = main.get("SeriesNumber")
    series = " · ".join(filter(None, ("" if number is None else str(number), _text(main, "SeriesDescription"))))
    return [
        (words("patient"), shown_name(name if isinstance(name, PersonName) else PersonName(str(name)), glyphs)),
        (words("patient_id"), _text(main, "PatientID")),
        (words("born"), _date(_text(main, "PatientBirthDate"))),
        (words("sex"), _text(main, "PatientSex")),
        (words("study"), " · ".join(filter(None, (_when(main), _text(main, "StudyDescription"))))),
        (words("accession"), _text(main, "AccessionNumber")),
        (words("series"), series),
        (words("scanner"), _scanner(main)),
    ]


def _scanner(main: Dataset) -> str:
    station = _text(main, "StationName")
    maker = " ".join(filter(None, (_text(main, "Manufacturer"), _text(main, "ManufacturerModelName"))))
    return " · ".join(filter(None, (station, maker)))


def _when(main: Dataset) -> str:
    time = _text(main, "StudyTime")
    clock = f" {time[:2]}:{time[2:4]}" if len(time) >= 4 else ""
    return _date(_text(main, "StudyDate")) + clock


def _date(value: str) -> str:
    try:
        return dt.datetime.strptime(value, "%Y%m%d").replace(tzinfo=dt.UTC).date().isoformat()
    except ValueError:
        return value


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else str(value).strip()
