"""Finds fonts that can draw a text in any script, so that no page shows empty boxes.

First the configured font, then DejaVu Sans from the folder ``fonts``, then what the system's font folders hold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from fontTools.ttLib import TTFont, TTLibError
from PIL import ImageFont, features

__all__ = ["Glyphs", "Run", "font", "system_fonts"]

_SHIPPED = Path(str(files("dicom_qa_node.report"))) / "fonts"
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
