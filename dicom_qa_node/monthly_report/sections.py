"""The tables of a monthly report, the same for the PDF and the workbook."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

from dicom_qa_node.domain.units import unit_text
from dicom_qa_node.monthly_report.figures import GRADE_ROWS, MonthlyFigures, ReviewFigures, ScannerMonth

__all__ = ["Section", "rows_of", "sections_of", "summary_lines", "with_trend"]

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Section:
    """One table; ``widths`` are relative, ``empty`` is the sentence where it has no rows.

    ``decimals`` are those of the numbers in it.
    """

    title: str
    heading: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    widths: tuple[float, ...]
    empty: str
    note: str = ""
    decimals: int = 2


def summary_lines(figures: MonthlyFigures) -> list[str]:
    """Return the sentences at the head of the report."""
    if not figures.series:
        return ["No series was acquired in this month."]
    grades = figures.grades
    rated = figures.series - grades["no score"]
    poor = rated - grades["diagnostic"]
    open_drifts = sum(line.ended_at is None for line in figures.drifts)
    unseen = sum(not line.acknowledged for line in figures.troubles)
    return [
        f"{figures.series:,} series of {_count(len(figures.scanners), 'scanner')}; {rated:,} rated, of which "
        f"{poor:,} ({100 * poor / rated:.1f} %) are not plainly diagnostic."
        if rated
        else f"{figures.series:,} series of {_count(len(figures.scanners), 'scanner')}; none could be rated.",
        f"{_count(len(figures.drifts), 'drift')}, {open_drifts} still open. {_count(len(figures.troubles), 'alert')}, "
        f"{unseen} not acknowledged. {_count(len(figures.events), 'service event')}.",
        _reviewed(figures.reviews),
    ]


def sections_of(figures: MonthlyFigures) -> list[Section]:
    """Return the tables that follow the scanners."""
    return [
        _scanners(figures),
        _protocols(figures),
        _findings(figures),
        _levels(figures),
        _phantoms(figures),
        _drifts(figures),
        _troubles(figures),
        _events(figures),
        _reviews(figures.reviews),
        _models(figures),
    ]


def _scanners(figures: MonthlyFigures) -> Section:
    rows = tuple(
        (item.name, item.model, item.series, item.series_before, item.median, item.median_before,
         *(item.grades.get(row, 0) for row in GRADE_ROWS))
        for item in figures.scanners
    )  # fmt: skip
    return Section(
        "Scanners",
        ("Scanner", "Model", "Series", "Month\nbefore", "Median\nscore", "Month\nbefore", *_SHORT.values()),
        rows,
        (20, 18, 10, 10, 10, 10, *(12,) * len(GRADE_ROWS)),
        "No series was acquired in this month.",
        "Counted by the date of the acquisition, the latest version of each series.",
    )  # fmt: skip


_SHORT = {
    "diagnostic": "Diag-\nnostic",
    "diagnostic–limited": "Diagn. or\nlimited",
    "limited": "Limited",
    "limited–non-diagnostic": "Limited\nor worse",
    "non-diagnostic": "Non-\ndiagn.",
    "no score": "No\nscore",
}


def _protocols(figures: MonthlyFigures) -> Section:
    rows = tuple(
        (item.name, found.protocol, found.kind.upper(), found.series, found.median,
         "" if found.quartiles is None else f"{found.quartiles[0]:.2f} to {found.quartiles[1]:.2f}",
         _share(found.limited_or_worse, found.series))
        for item in figures.scanners
        for found in item.protocols
    )  # fmt: skip
    return Section(
        "Protocols",
        ("Scanner", "Protocol", "Kind", "Series", "Median score", "Quartiles", "Limited or worse"),
        rows,
        (20, 40, 9, 9, 10, 18, 13),
        "No series was acquired in this month.",
        "The twelve protocols with the most series of each scanner. Quartiles from ten scores on.",
    )


def _findings(figures: MonthlyFigures) -> Section:
    rows = tuple(
        (item.name, key.replace("_", " "), number, _share(number, item.series))
        for item in figures.scanners
        for key, number in item.findings.items()
    )
    return Section(
        "Findings", ("Scanner", "Finding", "Series", "Share"), rows, (25, 60, 12, 12), "No finding in this month."
    )


def _levels(figures: MonthlyFigures) -> Section:
    rows = tuple(
        (line.scanner, line.protocol, line.quantity.replace("_", " "), f"{line.typical:.3g} {unit_text(line.unit)}",
         f"{line.form}, revision {line.revision} of {_day(line.frozen_at)}", line.compared,
         "–" if line.ratio_percent is None else f"{line.ratio_percent:.0f} %", _share(line.outside, line.compared))
        for line in figures.levels
    )  # fmt: skip
    return Section(
        "Reference levels",
        ("Scanner", "Protocol", "Quantity", "Typical", "Level", "Series", "Median of level", "Outside"),
        rows,
        (16, 26, 20, 13, 30, 9, 12, 10),
        "No reference level is frozen.",
        "Each series is compared with the level at its patient's size, where the level holds for it.",
    )


def _phantoms(figures: MonthlyFigures) -> Section:
    rows = tuple(
        (line.scanner, line.phantom, line.runs, line.passed, line.outside, line.not_judged, line.not_analysed,
         ", ".join(line.missed) or "none", "; ".join(line.remarks))
        for line in figures.phantoms
    )  # fmt: skip
    return Section(
        "QC phantoms",
        ("Scanner", "Phantom", "Scans", "Passed", "Outside", "Not\njudged", "Not\nanalysed", "Missed", "What"),
        rows,
        (15, 18, 9, 10, 11, 10, 12, 20, 40),
        "No QC phantom was scanned, and none was due.",
    )


def _drifts(figures: MonthlyFigures) -> Section:
    rows = tuple(
        (line.scanner, line.protocol, line.quantity, line.sentence, _day(line.raised_at),
         "open" if line.ended_at is None else _day(line.ended_at), line.done or "nothing noted")
        for line in figures.drifts
    )  # fmt: skip
    return Section(
        "Drifts, and what was done",
        ("Scanner", "Protocol", "Quantity", "What", "Raised", "Ended", "Done since"),
        rows,
        (16, 22, 21, 25, 15, 15, 26),
        "No drift was raised or open in this month.",
    )


def _troubles(figures: MonthlyFigures) -> Section:
    rows = tuple((_day(line.at), line.about, line.text, line.acknowledged or "not yet") for line in figures.troubles)
    return Section(
        "Alerts", ("Day", "About", "Alert", "Acknowledged"), rows, (14, 18, 58, 30), "No alert in this month."
    )


def _events(figures: MonthlyFigures) -> Section:
    lines = sorted((*figures.events, *figures.baselines), key=lambda line: line.at)
    rows = tuple((_day(line.at), line.scanner, line.kind, line.text, line.author) for line in lines)
    return Section(
        "Service events and new baselines",
        ("Day", "Scanner", "Kind", "What", "Noted by"),
        rows,
        (14, 18, 16, 53, 17),
        "Nothing was noted in this month.",
    )


def _reviews(reviews: ReviewFigures) -> Section:
    rows = tuple((name, total, agreed, _share(agreed, total)) for name, (total, agreed) in reviews.by_reviewer.items())
    return Section(
        "Reviews", ("Reviewer", "Reviews", "Agreed", "Agreement"), rows, (40, 15, 15, 15),
        "Nobody reviewed a series in this month.", _reviewed(reviews) if reviews.reviews else "",
    )  # fmt: skip


def _models(figures: MonthlyFigures) -> Section:
    rows = tuple((line.name, line.sha256, line.series) for line in figures.models)
    return Section(
        "Models and software",
        ("Model", "Checksum of its weights (SHA-256)", "Series"),
        rows,
        (30, 75, 12),
        "No series was scored.",
        f"dicom-qa-node {figures.version}.",
    )


def _reviewed(reviews: ReviewFigures) -> str:
    if not reviews.reviews:
        return "No review was signed."
    words = f"{_count(reviews.reviews, 'review')}, {_share(reviews.agreed, reviews.reviews)} agree with the node"
    if reviews.mean_difference is not None:
        words += f"; reviewers' scores differ by {reviews.mean_difference:+.2f} on average ({reviews.with_score})"
    return f"{words}."


def with_trend(figures: MonthlyFigures) -> list[ScannerMonth]:
    """Return the scanners that have a trend to draw."""
    return [item for item in figures.scanners if item.trend is not None]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _day(at: dt.datetime) -> str:
    return f"{at.astimezone():%Y-%m-%d}"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def rows_of(section: Section) -> Iterator[list[str]]:
    """Yield the rows of a table as texts."""
    for row in section.rows:
        yield [_shown(cell, section.decimals) for cell in row]


def _shown(cell: Cell, decimals: int) -> str:
    if cell is None:
        return "–"
    return f"{cell:.{decimals}f}" if isinstance(cell, float) else f"{cell}"
