"""One picture per series: the salient slices side by side, each with its score and weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from dicom_qa_node.records import SeriesResult

__all__ = ["Tile", "contact_sheet", "save_sheet", "tiles_of"]

_SIDE = 256
_CAPTION = 40
_TITLE = 30
_GAP = 4
_INK, _PAPER = (235, 235, 235), (24, 24, 28)


@dataclass(frozen=True, slots=True)
class Tile:
    """One slice: ``picture`` is uint8 RGB, shape (rows, columns, 3); ``lines`` stand below it."""

    picture: npt.NDArray[np.uint8]
    lines: tuple[str, ...]


def tiles_of(result: SeriesResult, pictures: npt.NDArray[np.uint8]) -> list[Tile]:
    """Return the tiles of a result; ``pictures`` are those of its slices, shape (slices, rows, columns, 3)."""
    tiles = []
    for item, picture in zip(result.slices, pictures, strict=True):
        place = f"slice {item.index}, {item.position_mm:.0f} mm"
        tiles.append(Tile(picture, (f"score {item.score:.2f}  weight {item.weight:.2f}", place)))
    return tiles


def contact_sheet(title: str, tiles: Sequence[Tile]) -> Image.Image:
    """Draw the tiles in one row below a title."""
    width = max(1, len(tiles)) * (_SIDE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, _TITLE + _SIDE + _CAPTION), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP + 2, 6), title, fill=_INK, font=ImageFont.load_default(size=16))
    for index, tile in enumerate(tiles):
        left = _GAP + index * (_SIDE + _GAP)
        sheet.paste(_fitted(tile.picture), (left, _TITLE))
        for row, line in enumerate(tile.lines):
            place = (left + 2, _TITLE + _SIDE + 3 + 17 * row)
            pen.text(place, line, fill=_INK, font=ImageFont.load_default(size=13))
    return sheet


def save_sheet(path: Path, title: str, tiles: Sequence[Tile]) -> Path:
    """Write the sheet as PNG and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(title, tiles).save(path, optimize=True)
    return path


def _fitted(picture: npt.NDArray[np.uint8]) -> Image.Image:
    """Fit a picture into a square without changing its shape."""
    image = Image.fromarray(picture)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (_SIDE, _SIDE))
    square.paste(image, ((_SIDE - image.width) // 2, (_SIDE - image.height) // 2))
    return square
