"""A canvas for contact sheets and summary pages: fonts for any script, text cut to its room, shapes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from fontTools.ttLib import TTFont, TTLibError
from PIL import Image, ImageDraw, ImageFont, features

__all__ = ["Box", "Canvas", "Colour", "Drawn", "Glyphs", "Line", "Run", "font", "system_fonts"]

_SHIPPED = Path(str(files("dicom_qa_node.canvas"))) / "fonts"
_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "/System/Library/Fonts")
_KINDS = (".ttf", ".otf", ".ttc")
_WIDE = re.compile(
    r"cjk|fallback|gothic|mincho|song|hei|ming|nanum|unifont|universal|freesans|notosans-reg", re.IGNORECASE
)
_SLANTED = re.compile(r"bold|italic|oblique|light|thin|mono|black|condensed", re.IGNORECASE)
# Scripts that are unreadable without shaping and reordering: Hebrew and Arabic, Indic scripts, Thai to Khmer.
_SHAPED = ((0x0590, 0x08FF), (0x0900, 0x0EFF), (0x0F00, 0x109F), (0x1780, 0x17FF), (0xFB1D, 0xFDFF), (0xFE70, 0xFEFF))

Run = tuple[str, Path]


class Glyphs:
    """Chooses fonts by what they can draw.

    Parameters
    ----------
    configured
        A font file to try first, or None.
    others
        Where to look when DejaVu Sans lacks a character; None: the system's fonts.
    """

    def __init__(self, configured: Path | None = None, others: Sequence[Path] | None = None) -> None:
        self._first = [path for path in (configured,) if path is not None]
        self._others = others
        self._found: dict[str, Path | None] = {}

    def runs(self, text: str, *, bold: bool = False) -> list[Run] | None:
        """Cut a text into pieces of one font each, None if a character can be drawn by no font."""
        runs: list[Run] = []
        for char in text:
            font = self._font_of(char, bold)
            if font is None:
                return None
            if runs and (runs[-1][1] == font or char.isspace()):
                runs[-1] = (runs[-1][0] + char, runs[-1][1])
            else:
                runs.append((char, font))
        return runs

    def can_draw(self, text: str) -> bool:
        """Return whether every character has a glyph."""
        return self.runs(text) is not None

    def drawable(self, text: str) -> str:
        """Return the text as one line without the characters that cannot be drawn.

        Line ends and separators are blanks here: Raqm, which shapes a line, fails on them.
        """
        line = "".join(" " if char.isspace() else char for char in text)
        return "".join(char for char in line if self._font_of(char, False) is not None)

    def _font_of(self, char: str, bold: bool) -> Path | None:
        shipped = _dejavu(bold)
        for path in (*self._first, shipped):
            if _has(path, char):
                return path
        if char not in self._found:
            others = system_fonts() if self._others is None else self._others
            self._found[char] = next((path for path in others if _has(path, char)), None)
        return self._found[char]


@cache
def system_fonts() -> tuple[Path, ...]:
    """Return the upright fonts of the system, those that draw many scripts first."""
    found: list[Path] = []
    for folder in _FOLDERS:
        paths = sorted(Path(folder).expanduser().glob("**/*"))
        found += [path for path in paths if path.suffix.lower() in _KINDS and not _SLANTED.search(path.stem)]
    return tuple(sorted(found, key=lambda path: _WIDE.search(path.stem) is None))


@cache
def font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    """Return an opened font."""
    return ImageFont.truetype(str(path), size)


def _has(path: Path, char: str) -> bool:
    if char.isspace():
        return True
    if not char.isprintable() or (_needs_shaping(char) and not features.check("raqm")):
        return False
    return ord(char) in _characters(path)


def _needs_shaping(char: str) -> bool:
    return any(low <= ord(char) <= high for low, high in _SHAPED)


@cache
def _characters(path: Path) -> frozenset[int]:
    try:
        with TTFont(path, fontNumber=0, lazy=True) as opened:
            return frozenset(opened.getBestCmap() or ())
    except (OSError, TTLibError, ValueError, KeyError):
        return frozenset()


@cache
def _dejavu(bold: bool) -> Path:
    return _SHIPPED / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")


Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Line:
    """A text on a picture, in pixels from its upper left corner; ``base`` is the line the letters stand on."""

    text: str
    left: float
    base: float
    width: float
    size: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """A page: what is seen, and the texts in it in the order of reading."""

    picture: Image.Image
    lines: tuple[Line, ...]


class Canvas:
    """An RGB page; places and sizes are in pixels, text stands on its upper left corner; ``paper`` is its colour."""

    def __init__(self, width: int, height: int, glyphs: Glyphs, ink: Colour, paper: Colour = (255, 255, 255)) -> None:
        self.image = Image.new("RGB", (width, height), paper)
        self.draw = ImageDraw.Draw(self.image)
        self.lines: list[Line] = []
        self._glyphs, self._ink = glyphs, ink

    def width(self, text: str, size: int, *, bold: bool = False) -> float:
        """Return how wide a text will be."""
        runs = self._glyphs.runs(self._glyphs.drawable(text), bold=bold) or []
        return sum(font(path, size).getlength(piece) for piece, path in runs)

    def text(
        self,
        place: tuple[float, float],
        text: str,
        size: int,
        colour: Colour | None = None,
        *,
        bold: bool = False,
        room: float | None = None,
        right: bool = False,
    ) -> float:
        """Draw one line and return its width; ``room`` shortens it, ``right`` lets it end at the place."""
        shown = self._glyphs.drawable(text if room is None else self.shortened(text, size, room, bold=bold))
        width = self.width(shown, size, bold=bold)
        left, top = place[0] - width if right else place[0], place[1]
        if shown.strip():
            self.lines.append(Line(shown, left, top + round(0.93 * size), width, size))
        for piece, path in self._glyphs.runs(shown, bold=bold) or []:
            opened = font(path, size)
            # All fonts share the base line of the first, whatever their heights.
            self.draw.text((left, top + round(0.93 * size)), piece, colour or self._ink, opened, anchor="ls")
            left += opened.getlength(piece)
        return width

    def shortened(self, text: str, size: int, room: float, *, bold: bool = False) -> str:
        """Cut a text with an ellipsis to the room it has."""
        if self.width(text, size, bold=bold) <= room:
            return text
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._fits(text[:middle], size, room, bold) else (low, middle - 1)
        return text[:low].rstrip() + "…"

    def wrapped(self, text: str, size: int, room: float, most: int) -> list[str]:
        """Break a text into lines; the last of ``most`` is cut."""
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            if self.width(longer, size) <= room:
                lines[-1] = longer
            elif not lines[-1]:
                lines[-1] = self.shortened(word, size, room)
            else:
                lines.append(self.shortened(word, size, room))
        if len(lines) > most:
            lines[most - 1] = self.shortened(" ".join(lines[most - 1 :]), size, room)
        return lines[:most]

    def chip(self, place: tuple[float, float], text: str, size: int, fill: Colour, colour: Colour) -> float:
        """Draw a rounded label and return its width."""
        width = self.width(text, size, bold=True) + size
        left, top = place
        self.draw.rounded_rectangle((left, top, left + width, top + round(1.6 * size)), round(0.5 * size), fill)
        self.text((left + size / 2, top + round(0.27 * size)), text, size, colour, bold=True)
        return width

    def _fits(self, text: str, size: int, room: float, bold: bool) -> bool:
        return self.width(text.rstrip() + "…", size, bold=bold) <= room
