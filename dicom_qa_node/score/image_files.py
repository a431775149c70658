"""Writes what the verdict was passed on: the pictures of the slices, and one sheet of them with scores, for people.

What lies where, `spool.rendered_images` says. No picture holds a patient's name or identifier.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dicom_qa_node.canvas import Box, Canvas, Colour, Glyphs
from dicom_qa_node.config import Grades
from dicom_qa_node.dicom_io.durable import replace_file, sync_folder
from dicom_qa_node.domain.results import Finding, Grade, ScoredSlice, SeriesResult, Severity, gravest_first
from dicom_qa_node.score.grade_sets import grade_of
from dicom_qa_node.score.pipeline import ScoredSeries
from dicom_qa_node.score.slice_rendering import DisplayImages, KeySlice, KeySlices, Layer
from dicom_qa_node.score.threads import max_threads
from dicom_qa_node.spool.rendered_images import (
    INDEX,
    OVERVIEW,
    SHEET,
    ImageManifest,
    Overview,
    RenderedSlice,
    StoredLayer,
    display_name,
    heat_name,
    manifest_to_json,
    pt_name,
    slice_name,
)

__all__ = ["SHEET", "contact_sheet", "write_heat_map", "write_images"]

_BACKGROUND: Colour = (13, 17, 23)
_PANEL: Colour = (22, 27, 34)
_LINE: Colour = (48, 54, 61)
_TEXT: Colour = (230, 237, 243)
_FAINT: Colour = (139, 148, 158)
_GRADE_COLOUR: dict[Grade | None, Colour] = {
    Grade.DIAGNOSTIC: (63, 185, 80),
    Grade.LIMITED: (210, 153, 34),
    Grade.NON_DIAGNOSTIC: (248, 81, 73),
    None: (139, 148, 158),
}
_SEVERITY_COLOUR = {Severity.INFO: _FAINT, Severity.WARNING: (210, 153, 34), Severity.ERROR: (248, 81, 73)}
_KIND = {"ct": "CT", "pt": "PET", "petct": "PET/CT"}

_WIDTH = 1680
_MARGIN = 28
_HEAD = 168
_COLUMNS = 4
_GAP = 16
_TILE = (_WIDTH - 2 * _MARGIN - (_COLUMNS - 1) * _GAP) // _COLUMNS
_CAPTION = 76


def write_images(verdict: ScoredSeries, folder: Path, grades: Grades) -> list[Path]:
    """Write every file that `spool.rendered_images` names but the heat maps; each is there whole or not at all, the
    index last.

    Returns
    -------
    list
        The files, the sheet first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [
        _File(display_name(number), _display_image(picture), 3)
        for number, picture in enumerate(verdict.pictures, start=1)
    ]
    manifest = ImageManifest(verdict.result.kind.value, ())
    if verdict.key_slices is not None:
        shown = [_shown(item, number, files) for number, item in enumerate(verdict.key_slices.slices, 1)]
        manifest = ImageManifest(verdict.result.kind.value, tuple(shown), _overview(verdict.key_slices, files))
    # Packing PNG does not hold Python's lock.
    with ThreadPoolExecutor(max_threads()) as pool:
        sheet = pool.submit(_write_sheet, verdict, folder / SHEET, grades)
        rest = list(pool.map(lambda file: _write(file.image, folder / file.name, file.level), files))
    written = [sheet.result(), *rest, _write_bytes(manifest_to_json(manifest), folder / INDEX)]
    sync_folder(folder)
    return written


def write_heat_map(heat: DisplayImages, folder: Path, number: int) -> Path:
    """Write the map of a slice, uint8, shape (rows, columns), as ``heat_<number>.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    return _write(Image.fromarray(heat), folder / heat_name(number), 6)


def contact_sheet(result: SeriesResult, pictures: DisplayImages, grades: Grades) -> Image.Image:
    """Draw the chosen slices with their scores under the verdict on the series, and the findings beside them.

    Parameters
    ----------
    pictures
        One for each of ``result.slices``; none where there is no score.
    """
    cells = len(result.slices) + 1
    rows = -(-cells // _COLUMNS)
    height = _HEAD + rows * (_TILE + _CAPTION + _GAP) + _MARGIN
    canvas = Canvas(_WIDTH, height, Glyphs(), _TEXT, _BACKGROUND)
    _draw_head(canvas, result, grades)
    for number, (item, picture) in enumerate(zip(result.slices, pictures, strict=False)):
        _draw_tile(canvas, _cell(number), item, picture, grade_of(item.score, grades))
    _draw_findings(canvas, _cell(cells - 1), result.findings)
    return canvas.image


@dataclass(frozen=True, slots=True)
class _File:
    """A picture to be written, with its level of compression."""

    name: str
    image: Image.Image
    level: int


def _display_image(picture: DisplayImages) -> Image.Image:
    """Return a picture of shape (rows, columns, 3) in one channel where all three are equal, as those of a CT are."""
    grey = picture[..., 0]
    if np.array_equal(grey, picture[..., 1]) and np.array_equal(grey, picture[..., 2]):
        return Image.fromarray(np.ascontiguousarray(grey))
    return Image.fromarray(picture)


def _write_sheet(verdict: ScoredSeries, path: Path, grades: Grades) -> Path:
    return _write(contact_sheet(verdict.result, verdict.pictures, grades), path, 1)


def _shown(item: KeySlice, number: int, files: list[_File]) -> RenderedSlice:
    layers = []
    for name, layer in zip((slice_name(number), pt_name(number)), item.layers, strict=False):
        # Noise hardly compresses: the quickest level is a few per cent larger than the best.
        files.append(_File(name, Image.fromarray(layer.pixels), 1))
        layers.append(_stored(layer, name))
    rows, columns = item.layers[0].pixels.shape
    return RenderedSlice(
        number=number,
        sop_instance_uid=item.sop_instance_uid,
        frame_number=item.frame_number,
        index=item.index,
        position_mm=item.position_mm,
        display=display_name(number),
        rows=rows,
        columns=columns,
        pixel_spacing_mm=item.pixel_spacing_mm,
        layers=tuple(layers),
    )


def _stored(layer: Layer, name: str) -> StoredLayer:
    return StoredLayer(name, layer.unit, layer.scale, layer.offset, layer.step, layer.low, layer.high, layer.inverted)


def _overview(key_slices: KeySlices, files: list[_File]) -> Overview:
    files.append(_File(OVERVIEW, Image.fromarray(key_slices.overview), 3))
    rows, columns = key_slices.overview.shape
    return Overview(OVERVIEW, rows, columns, key_slices.pixel_mm, key_slices.marks)


def _write(image: Image.Image, path: Path, level: int) -> Path:
    encoded = io.BytesIO()
    image.save(encoded, "PNG", compress_level=level)
    return _write_bytes(encoded.getvalue(), path)


def _write_bytes(content: bytes, path: Path) -> Path:
    replace_file(path, content, sync_name=False)
    return path


def _cell(number: int) -> Box:
    left = _MARGIN + number % _COLUMNS * (_TILE + _GAP)
    top = _HEAD + number // _COLUMNS * (_TILE + _CAPTION + _GAP)
    return left, top, left + _TILE, top + _TILE + _CAPTION


def _draw_head(canvas: Canvas, result: SeriesResult, grades: Grades) -> None:
    colour = _GRADE_COLOUR[result.grade]
    score = "–" if result.score is None else f"{result.score:.1f}"
    left = _MARGIN + int(canvas.text((_MARGIN, 18), score, 92)) + 14
    canvas.text((left, 74), "of 4", 30, _FAINT)
    left += 110
    word = result.grade_text or "no score"
    canvas.chip((left, 32), word, 30, colour, _BACKGROUND)
    if result.score is not None and result.interval is not None:
        _draw_scale(canvas, (left, 100, left + 420, 116), result.score, result.interval, grades)
    title = _KIND[result.kind.value] + (f" · {result.stack_name}" if result.stack_name else "")
    model = f"{result.model.name} {result.model.version}"
    lines = (
        (title, _TEXT, 30),
        (f"{result.instances_used} images · judged by {len(result.slices)} slices", _FAINT, 22),
        (f"model {model} · {result.model.sha256[:12]}", _FAINT, 22),
    )
    for (text, shade, size), top in zip(lines, (30, 74, 106), strict=True):
        canvas.text((_WIDTH - _MARGIN, top), text, size, shade, right=True)


def _draw_scale(canvas: Canvas, box: Box, score: float, interval: tuple[float, float], grades: Grades) -> None:
    """Draw 0 to 4 with the grades' colours, the interval and the score."""
    left, top, right, bottom = box

    def at(value: float) -> int:
        return left + round((right - left) * value / 4)

    bounds = (0.0, grades.limited, grades.diagnostic, 4.0)
    for start, end, grade in zip(bounds, bounds[1:], reversed(Grade), strict=False):
        canvas.draw.rectangle((at(start), top + 5, at(end), bottom - 5), _dimmed(_GRADE_COLOUR[grade]))
    canvas.draw.rounded_rectangle((at(interval[0]), top + 2, at(interval[1]), bottom - 2), 6, _FAINT)
    canvas.draw.ellipse((at(score) - 9, (top + bottom) // 2 - 9, at(score) + 9, (top + bottom) // 2 + 9), _TEXT)
    canvas.text((left, bottom + 6), f"90 % interval {interval[0]:.1f} to {interval[1]:.1f}", 20, _FAINT)


def _draw_tile(canvas: Canvas, box: Box, item: ScoredSlice, picture: DisplayImages, grade: Grade) -> None:
    left, top, _, bottom = box
    canvas.draw.rounded_rectangle(box, 12, _PANEL, _LINE)
    image = Image.fromarray(picture)
    scale = (_TILE - 16) / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    centre = (left + (_TILE - image.width) // 2, top + (_TILE - image.height) // 2)
    canvas.image.paste(image, centre)
    canvas.chip((left + 16, top + 16), f"{item.score:.1f}", 24, _GRADE_COLOUR[grade], _BACKGROUND)
    caption = f"slice {item.index + 1} · at {item.position_mm:.0f} mm · weight {100 * item.weight:.0f} %"
    canvas.text((left + 16, bottom - _CAPTION + 8), caption, 20, _TEXT)
    canvas.text((left + 16, bottom - _CAPTION + 38), item.reason, 18, _FAINT, room=_TILE - 32)


def _draw_findings(canvas: Canvas, box: Box, findings: Sequence[Finding]) -> None:
    left, top, right, bottom = box
    canvas.draw.rounded_rectangle(box, 12, _PANEL, _LINE)
    canvas.text((left + 16, top + 14), "Findings", 26, _TEXT)
    place = top + 58
    shown = gravest_first(findings)
    for number, finding in enumerate(shown):
        lines = canvas.wrapped(finding.sentence, 18, right - left - 56, 3)
        if place + 24 * len(lines) > bottom - 44:
            canvas.text((left + 16, place), f"and {len(shown) - number} more", 18, _FAINT)
            return
        canvas.draw.ellipse((left + 18, place + 6, left + 28, place + 16), _SEVERITY_COLOUR[finding.severity])
        for line in lines:
            canvas.text((left + 40, place), line, 18, _TEXT)
            place += 24
        place += 10
    if not shown:
        canvas.text((left + 16, place), "none", 18, _FAINT)


def _dimmed(colour: Colour) -> Colour:
    red, green, blue = (channel // 2 for channel in colour)
    return red, green, blue
