"""Draws on the page of the companion: text in any script, cut to its room, and simple shapes."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw

from dicom_qa_node.report.glyphs import Glyphs, font

__all__ = ["Box", "Canvas", "Colour", "Drawn", "Line"]

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
    """A white RGB page; places and sizes are in pixels, text stands on its upper left corner."""

    def __init__(self, width: int, height: int, glyphs: Glyphs, ink: Colour) -> None:
        self.image = Image.new("RGB", (width, height), (255, 255, 255))
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
