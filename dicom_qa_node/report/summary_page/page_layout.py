"""Lays out the companion: one upright page that any viewer shows, with what the Structured Report says.

From top to bottom: whose images, the verdict, the slices, the measurements beside the findings, the scanner's trend.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dicom_qa_node.canvas import Box, Canvas, Colour, Drawn, Glyphs
from dicom_qa_node.config import Grades
from dicom_qa_node.domain.results import (
    Finding,
    Grade,
    Measurement,
    RatedPart,
    ScoredSlice,
    SeriesKind,
    SeriesResult,
    Severity,
    gravest_first,
)
from dicom_qa_node.domain.units import unit_text
from dicom_qa_node.report.summary_page.wording import Words
from dicom_qa_node.spool.rendered_images import ImageManifest, Overview, heat_name

__all__ = ["HEIGHT", "WIDTH", "Page", "draw_page", "draw_trend"]

WIDTH, HEIGHT = 1240, 1754
"""A4 at 150 dots an inch."""

INK: Colour = (28, 32, 38)
FAINT: Colour = (104, 112, 122)
LINE: Colour = (208, 213, 219)
PANEL: Colour = (245, 247, 249)
GRADE_COLOURS: dict[Grade | None, Colour] = {
    Grade.DIAGNOSTIC: (26, 127, 55),
    Grade.LIMITED: (154, 103, 0),
    Grade.NON_DIAGNOSTIC: (190, 30, 40),
    None: (104, 112, 122),
}
_PALE: dict[Grade, Colour] = {
    Grade.DIAGNOSTIC: (200, 232, 208),
    Grade.LIMITED: (250, 231, 190),
    Grade.NON_DIAGNOSTIC: (250, 208, 208),
}
_SEVERITY_COLOURS = {Severity.INFO: FAINT, Severity.WARNING: (191, 135, 0), Severity.ERROR: (190, 30, 40)}
_WHITE: Colour = (255, 255, 255)

_MARGIN = 44
_INNER = WIDTH - 2 * _MARGIN
_COLUMNS, _GAP = 4, 14
_TILE = (_INNER - (_COLUMNS - 1) * _GAP) // _COLUMNS
_PICTURE, _CAPTION = 232, 50
_SHOWN = 7
_PART_HEIGHT = 76
_SLICES_TOP, _LOWER_TOP, _TREND_TOP = 542, 1192, 1516
_ROW = 25
_HEAT, _AIR = 0.55, 12.0


@dataclass(frozen=True, slots=True)
class Page:
    """What stands on one companion.

    ``head`` are labels with values, the patient's first; ``folder`` holds the pictures that ``manifest`` names, which
    is None where they are gone; ``trend`` are the scores of the scanner's earlier series, oldest first.
    """

    result: SeriesResult
    version: int
    scored_at: dt.datetime
    institution: str
    head: Sequence[tuple[str, str]]
    folder: Path
    manifest: ImageManifest | None
    trend: Sequence[float]
    scanner: str
    grades: Grades


def draw_page(page: Page, words: Words, glyphs: Glyphs) -> Drawn:
    """Return the page, an RGB picture of `WIDTH` x `HEIGHT` pixels."""
    canvas = Canvas(WIDTH, HEIGHT, glyphs, INK)
    _draw_head(canvas, page, words)
    _draw_verdict(canvas, page, words, 236)
    _draw_slices(canvas, page, words)
    half = (_INNER - 2 * _GAP) // 2
    _draw_measurements(canvas, page.result.measurements, words, (_MARGIN, _LOWER_TOP, _MARGIN + half, _TREND_TOP - 12))
    right = (_MARGIN + half + 2 * _GAP, _LOWER_TOP, WIDTH - _MARGIN, _TREND_TOP - 12)
    _draw_findings(canvas, page.result.findings, words, right)
    heading = words("trend", len(page.trend)) if page.trend else words("trend_none")
    canvas.text((_MARGIN, _TREND_TOP), f"{heading}  ·  {page.scanner}", 19, bold=True, room=_INNER)
    box = (_MARGIN, _TREND_TOP + 32, WIDTH - _MARGIN, _TREND_TOP + 164)
    if page.trend:
        draw_trend(canvas, box, page.trend, page.result.score, _bands(page.grades), FAINT, INK)
    _draw_foot(canvas, page, words)
    return Drawn(canvas.image, tuple(canvas.lines))


def _draw_head(canvas: Canvas, page: Page, words: Words) -> None:
    canvas.draw.rectangle((0, 0, WIDTH, 68), INK)
    used = canvas.text((_MARGIN, 16), words("title"), 32, _WHITE, bold=True)
    canvas.text((WIDTH - _MARGIN, 22), page.institution, 22, (214, 219, 225), right=True, room=_INNER - used - 40)
    (label, name), *rest = page.head
    canvas.text((_MARGIN, 87), label, 16, FAINT, room=126)
    canvas.text((_MARGIN + 134, 82), name, 23, bold=True, room=_INNER - 134)
    half = -(-len(rest) // 2)
    for number, (label, value) in enumerate(rest):
        left = _MARGIN + (number // half) * (_INNER // 2 + 10)
        top = 118 + (number % half) * 27
        canvas.text((left, top + 3), label, 16, FAINT, room=126)
        canvas.text((left + 134, top), value, 19, room=_INNER // 2 - 150)
    canvas.draw.line((_MARGIN, 228, WIDTH - _MARGIN, 228), LINE, 2)


def _draw_verdict(canvas: Canvas, page: Page, words: Words, top: int) -> None:
    result = page.result
    score = "–" if result.score is None else words.number(result.score, 1)
    left = _MARGIN + canvas.text((_MARGIN, top + 8), score, 84, bold=True) + 12
    if result.score is not None:
        left += canvas.text((left, top + 58), words("of_four"), 24, FAINT)
    left += 34
    grade = _grade_words(result.grade, result.grade_low, words)
    if result.qc_phantom is not None:
        grade = words.of("finding", "qc_phantom", "QC phantom")
    canvas.chip((left, top + 14), grade, 26, _colour(result.grade, result.grade_low), _WHITE)
    if result.score is not None and result.interval is not None:
        low, high = (words.number(value, 1) for value in result.interval)
        _draw_scale(
            canvas, (int(left), top + 68, int(left) + 420, top + 88), result.score, result.interval, page.grades
        )
        canvas.text((left, top + 96), words("interval", low, high), 17, FAINT)
    elif not result.why:
        for number, line in enumerate(canvas.wrapped(words("no_score_why"), 18, 470, 3)):
            canvas.text((left, top + 66 + 24 * number), line, 18, FAINT)
    _draw_about(canvas, page, words, top)
    _draw_parts(canvas, page, words, top + 128)


def _colour(grade: Grade | None, low: Grade | None) -> Colour:
    """Return the colour of a grade; a grade set has that of "limited", whichever its ends are."""
    return GRADE_COLOURS[grade if low is None else Grade.LIMITED]


def _grade_words(grade: Grade | None, low: Grade | None, words: Words) -> str:
    if grade is None:
        return words("no_score")
    ends = [words.of("grade", item.value, item.value) for item in (grade, low) if item is not None]
    return "–".join(dict.fromkeys(ends))


def _draw_parts(canvas: Canvas, page: Page, words: Words, top: int) -> None:
    """Draw the sentence that explains the verdict and a bar for each part; the part that decides is marked."""
    result = page.result
    for number, line in enumerate(canvas.wrapped(result.why, 17, _INNER, 2)):
        canvas.text((_MARGIN, top + 24 * number), line, 17, room=_INNER)
    count = max(len(result.rated_parts), 1)
    width = (_INNER - (count - 1) * _GAP) // count
    for number, part in enumerate(result.rated_parts):
        left = _MARGIN + number * (width + _GAP)
        _draw_part(canvas, (left, top + 54, left + width, top + 54 + _PART_HEIGHT), page, part, words)


def _draw_part(canvas: Canvas, box: Box, page: Page, part: RatedPart, words: Words) -> None:
    left, top, right, _ = box
    decides = part.kind is page.result.decided_by
    canvas.draw.rounded_rectangle(box, 8, PANEL, INK if decides else LINE, 3 if decides else 1)
    name = words.of("rated_part", part.kind.value, part.kind.value)
    name = f"{name} · {words('decides')}" if decides else name
    used = canvas.text((left + 10, top + 8), name, 17, bold=True)
    if part.score is None:
        canvas.text((left + 22 + used, top + 9), words("not_rated"), 15, FAINT)
    else:
        shown = words.number(part.score, 1)
        used += 14 + canvas.text((left + 24 + used, top + 7), shown, 18, _colour(part.grade, part.grade_low), bold=True)
        scale = (left + 34 + int(used), top + 11, right - 14, top + 25)
        _draw_scale(canvas, scale, part.score, part.interval or (part.score, part.score), page.grades, 7)
    text = part.reason or "; ".join(item.evidence for item in part.dimensions if item.dimension is part.limiting)
    for line, row in enumerate(canvas.wrapped(text, 14, right - left - 20, 2)):
        canvas.text((left + 10, top + 34 + 18 * line), row, 14, FAINT, room=right - left - 20)


def _draw_about(canvas: Canvas, page: Page, words: Words, top: int) -> None:
    result, model = page.result, page.result.model
    kind = words.of("kind", result.kind.value, result.kind.value)
    images = words("images", result.instances_used)
    lines = (
        (f"{kind} · {result.stack_name}" if result.stack_name else kind, 24, INK),
        (f"{images}, {words('paired')}" if result.pair_series_uid else images, 18, FAINT),
        (f"{words('model')} {model.name} {model.version} · {model.sha256[:12]}", 18, FAINT),
        (f"{words('scored_at')} {page.scored_at:%Y-%m-%d %H:%M}", 18, FAINT),
    )
    for number, (text, size, colour) in enumerate(lines):
        place = (WIDTH - _MARGIN, top + 12 + (0, 34, 60, 86)[number])
        canvas.text(place, text, size, colour, right=True, room=430, bold=number == 0)


def _draw_scale(
    canvas: Canvas, box: Box, score: float, interval: tuple[float, float], grades: Grades, radius: int = 10
) -> None:
    """Draw 0 to 4 with the grades' colours, their limits, the interval and the score."""
    left, top, right, bottom = box

    def at(value: float) -> int:
        return left + round((right - left) * min(max(value, 0.0), 4.0) / 4)

    for low, high, colour in _bands(grades):
        canvas.draw.rectangle((at(low), top, at(high), bottom), colour)
    for limit in (grades.limited, grades.diagnostic):
        canvas.draw.line((at(limit), top - 3, at(limit), bottom + 3), INK, 1)
    middle = (top + bottom) // 2
    canvas.draw.rounded_rectangle((at(interval[0]), middle - 4, at(interval[1]), middle + 4), 4, FAINT)
    canvas.draw.ellipse((at(score) - radius, middle - radius, at(score) + radius, middle + radius), INK, _WHITE, 2)


def _bands(grades: Grades) -> list[tuple[float, float, Colour]]:
    bounds = (0.0, grades.limited, grades.diagnostic, 4.0)
    order = (Grade.NON_DIAGNOSTIC, Grade.LIMITED, Grade.DIAGNOSTIC)
    return [(low, high, _PALE[grade]) for low, high, grade in zip(bounds, bounds[1:], order, strict=False)]


def _draw_slices(canvas: Canvas, page: Page, words: Words) -> None:
    slices, unscored = page.result.slices, page.manifest.slices if page.manifest is not None else ()
    numbers = _shown(slices) if slices else list(range(min(len(unscored), _SHOWN)))
    heading = words("slices")
    if len(numbers) < len(slices):
        heading += "  ·  " + words("slices_of", len(numbers), len(slices))
    heated = any((page.folder / heat_name(number + 1)).is_file() for number in numbers)
    used = canvas.text((_MARGIN, _SLICES_TOP - 38), heading, 19, bold=True)
    if heated:
        canvas.text((_MARGIN + used + 24, _SLICES_TOP - 36), words("heat"), 16, FAINT, room=_INNER - used - 24)
    for place, number in enumerate(numbers):
        _draw_tile(canvas, _cell(place), page, number, words)
    if page.manifest is not None and page.manifest.overview is not None:
        marks = [number for number in numbers if number < len(page.manifest.overview.marks)]
        _draw_overview(canvas, _cell(_SHOWN), page.folder, page.manifest.overview, marks, words)


def _shown(slices: Sequence[ScoredSlice]) -> list[int]:
    """Return which slices are shown, in their order: all, or the lowest of very many."""
    lowest = sorted(range(len(slices)), key=lambda number: slices[number].score)[:_SHOWN]
    return sorted(lowest)


def _cell(place: int) -> Box:
    left = _MARGIN + place % _COLUMNS * (_TILE + _GAP)
    top = _SLICES_TOP + place // _COLUMNS * (_PICTURE + _CAPTION + 34)
    return left, top, left + _TILE, top + _PICTURE + _CAPTION + 24


def _draw_tile(canvas: Canvas, box: Box, page: Page, number: int, words: Words) -> None:
    left, top, right, bottom = box
    canvas.draw.rounded_rectangle(box, 8, PANEL, LINE)
    canvas.draw.rectangle((left + 6, top + 6, right - 6, top + 6 + _PICTURE), (0, 0, 0))
    picture = _picture_of(page, number)
    if picture is None:
        canvas.text((left + 20, top + 100), words("no_picture"), 17, (150, 156, 164))
    else:
        _paste(canvas, picture, (left + 6, top + 6, right - 6, top + 6 + _PICTURE))
    if page.result.slices:
        _draw_score(canvas, box, page.result.slices[number], page.grades, words)
    elif page.manifest is not None:
        item = page.manifest.slices[number]
        place = words("place", item.index + 1, words.number(item.position_mm, 0))
        canvas.text((left + 8, bottom - 60), place, 15, room=_TILE - 16)


def _draw_score(canvas: Canvas, box: Box, item: ScoredSlice, grades: Grades, words: Words) -> None:
    left, top, _, bottom = box
    grade = next(grade for grade, low in _floors(grades) if item.score >= low)
    canvas.chip((left + 12, top + 12), words.number(item.score, 1), 18, GRADE_COLOURS[grade], _WHITE)
    place = words("slice", item.index + 1, words.number(item.position_mm, 0), words.number(100 * item.weight, 0))
    canvas.text((left + 8, bottom - 60), place, 14, room=_TILE - 16)
    for line, text in enumerate(canvas.wrapped(words.of("reason", item.reason, item.reason), 14, _TILE - 16, 2)):
        canvas.text((left + 8, bottom - 40 + 18 * line), text, 14, FAINT)


def _floors(grades: Grades) -> tuple[tuple[Grade, float], ...]:
    return (Grade.DIAGNOSTIC, grades.diagnostic), (Grade.LIMITED, grades.limited), (Grade.NON_DIAGNOSTIC, -1.0)


def _picture_of(page: Page, number: int) -> Image.Image | None:
    """Return what the network saw of a slice, with its heat map over it where there is one."""
    if page.manifest is None or number >= len(page.manifest.slices):
        return None
    seen = _opened(page.folder / page.manifest.slices[number].display, "RGB")
    heat = _opened(page.folder / heat_name(number + 1), "L")
    if seen is None or heat is None or heat.size != seen.size:
        return seen
    pixels = np.asarray(seen, np.float32)
    # Where there is only air nothing is judged; below half of the brightest nothing stands out.
    air = 255.0 if page.result.kind is SeriesKind.PT else 0.0
    body = np.abs(pixels.mean(axis=2) - air) > _AIR
    share = _HEAT * np.clip(np.asarray(heat, np.float32) / 127.5 - 1, 0, 1)[..., None] * body[..., None]
    mixed = pixels * (1 - share) + np.array([255.0, 70.0, 0.0], np.float32) * share
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def _opened(path: Path, mode: str) -> Image.Image | None:
    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except OSError:
        return None


def _paste(canvas: Canvas, picture: Image.Image, box: Box) -> None:
    left, top, right, bottom = box
    scale = min((right - left) / picture.width, (bottom - top) / picture.height)
    size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    fitted = picture.resize(size, Image.Resampling.LANCZOS)
    canvas.image.paste(fitted, (left + (right - left - size[0]) // 2, top + (bottom - top - size[1]) // 2))


def _draw_overview(
    canvas: Canvas, box: Box, folder: Path, overview: Overview, numbers: Sequence[int], words: Words
) -> None:
    left, top, right, bottom = box
    canvas.draw.rounded_rectangle(box, 8, PANEL, LINE)
    area = (left + 6, top + 6, right - 6, top + 6 + _PICTURE)
    picture = _opened(folder / overview.file, "RGB")
    if picture is not None:
        _paste(canvas, picture, area)
        scale = min((area[2] - area[0]) / picture.width, (area[3] - area[1]) / picture.height)
        start = area[1] + (area[3] - area[1] - round(picture.height * scale)) // 2
        for number in numbers:
            row = start + round(overview.marks[number] * scale)
            canvas.draw.line((area[0], row, area[2], row), (88, 166, 255), 1)
    canvas.text((left + 8, bottom - 60), words("overview"), 15, room=_TILE - 16)


def _draw_measurements(canvas: Canvas, measurements: Sequence[Measurement], words: Words, box: Box) -> None:
    left, top, right, bottom = box
    canvas.text((left, top), words("measurements"), 19, bold=True)
    rows = _ranked(measurements)[: (bottom - top - 34) // _ROW]
    for number, item in enumerate(rows):
        y = top + 34 + number * _ROW
        outside = _is_outside(item)
        colour = _SEVERITY_COLOURS[Severity.WARNING] if outside else INK
        value = f"{words.number(item.value or 0.0)} {unit_text(item.unit)}".strip()
        canvas.text((left, y), words.of("measurement", item.name, item.meaning), 16, room=246)
        canvas.text((left + 384, y), value, 16, colour, right=True, bold=outside, room=132)
        usual = _usual(item, words)
        canvas.text((left + 398, y), usual, 15, FAINT, room=right - left - 398)
    if not rows:
        canvas.text((left, top + 34), words("none"), 16, FAINT)


def _ranked(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Return what was measured: outside its usual range first, then inside one, then what has none."""
    measured = [item for item in measurements if item.value is not None and np.isfinite(item.value)]
    return sorted(measured, key=lambda item: (not _is_outside(item), item.low is None and item.high is None))


def _is_outside(item: Measurement) -> bool:
    value = item.value
    if value is None:
        return False
    return (item.low is not None and value < item.low) or (item.high is not None and value > item.high)


def _usual(item: Measurement, words: Words) -> str:
    low, high = (None if bound is None else words.number(bound) for bound in (item.low, item.high))
    if low is None and high is None:
        return ""
    if low is not None and high is not None:
        text = words("range", low, high)
    else:
        text = words("least", low) if low is not None else words("most", high)
    return f"{words('usual')} {text}"


def _draw_findings(canvas: Canvas, findings: Sequence[Finding], words: Words, box: Box) -> None:
    left, top, right, bottom = box
    canvas.text((left, top), words("findings"), 19, bold=True)
    y, room = top + 34, right - left - 22
    shown = gravest_first(findings)
    for number, finding in enumerate(shown):
        title = words.of("finding", finding.key, finding.key.replace("_", " ").capitalize())
        lines = canvas.wrapped(finding.sentence, 15, room, 3)
        if y + 22 + 20 * len(lines) > bottom - 22 * (number < len(shown) - 1):
            canvas.text((left, y), words("more", len(shown) - number), 16, FAINT)
            return
        canvas.draw.ellipse((left, y + 5, left + 11, y + 16), _SEVERITY_COLOURS[finding.severity])
        canvas.text((left + 22, y), title, 16, bold=True, room=room)
        for line in lines:
            y += 20
            canvas.text((left + 22, y), line, 15, FAINT)
        y += 30
    if not shown:
        canvas.text((left, y), words("none"), 16, FAINT)


def _draw_foot(canvas: Canvas, page: Page, words: Words) -> None:
    canvas.draw.line((_MARGIN, HEIGHT - 62, WIDTH - _MARGIN, HEIGHT - 62), LINE, 2)
    canvas.text((_MARGIN, HEIGHT - 50), words("notice"), 15, FAINT, room=_INNER)
    origin = f"{words('version')} {page.version} · {page.result.series_instance_uid}"
    canvas.text((_MARGIN, HEIGHT - 28), origin, 13, FAINT, room=_INNER)


_BEST = 4.0
_LABELS = 34


def draw_trend(
    canvas: Canvas,
    box: Box,
    earlier: Sequence[float],
    present: float | None,
    bands: Sequence[tuple[float, float, Colour]],
    faint: Colour,
    ink: Colour,
) -> None:
    """Draw scores from 0 to 4 over bands of colour.

    Parameters
    ----------
    earlier
        Oldest first.
    present
        The score of this series, None where it has none.
    bands
        Lowest and highest score of each band, and its colour.
    """
    left, top, right, bottom = box
    left += _LABELS

    def at(score: float) -> float:
        return bottom - (bottom - top) * min(max(score, 0.0), _BEST) / _BEST

    for low, high, colour in bands:
        canvas.draw.rectangle((left, at(high), right, at(low)), colour)
    for mark in (0, 2, 4):
        canvas.text((left - 10, at(mark) - 8), str(mark), 14, faint, right=True)
    step = (right - left) / (len(earlier) + 2)
    points = [(left + step * (number + 1), at(score)) for number, score in enumerate(earlier)]
    here = [] if present is None else [(left + step * (len(earlier) + 1), at(present))]
    if len(points + here) > 1:
        canvas.draw.line(points + here, faint, 2)
    for x, y in points:
        canvas.draw.ellipse((x - 4, y - 4, x + 4, y + 4), faint)
    for x, y in here:
        canvas.draw.ellipse((x - 8, y - 8, x + 8, y + 8), ink, (255, 255, 255), 2)
