"""Writes the summary page as PDF by fpdf2: the picture, and its text over it, invisible but searchable.

The text lies in a font without outlines, stretched to where the words are on the picture; so it can be found, copied
and read aloud in any script. The same page gives the same bytes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib.tables._g_l_y_f import Glyph
from fpdf import FPDF
from fpdf.enums import TextMode
from PIL import Image

from dicom_qa_node.canvas import Line

__all__ = ["pdf_page"]

_JPEG_QUALITY = 90
_FONT = "Unseen"
_EM_WIDTH = 0.5
"""Of every character, as a share of the font size; lines are stretched to their width on the picture."""


def pdf_page(
    picture: Image.Image, lines: Sequence[Line], *, dpi: float, title: str, language: str, at: dt.datetime
) -> bytes:
    """Return a PDF (ISO 32000-1) of one page.

    Parameters
    ----------
    picture
        RGB, ``dpi`` pixels an inch.
    lines
        The text on the picture, in pixels.
    language
        Of most of the text, as RFC 5646 names it.
    at
        Time of creation in the file.
    """
    scale = 72 / dpi
    size = picture.width * scale, picture.height * scale
    pdf = FPDF(unit="pt", format=size)
    pdf.set_title(title)
    pdf.set_lang(language)
    pdf.set_producer("dicom-qa-node")
    pdf.set_creation_date(at)
    pdf.add_page()
    pdf.image(_jpeg(picture), 0, 0, *size)
    with TemporaryDirectory(prefix="dicom-qa-node-") as folder:
        pdf.add_font(_FONT, fname=_blank_font(Path(folder), {" ", *(char for line in lines for char in line.text)}))
        with pdf.local_context(text_mode=TextMode.INVISIBLE):
            for line in lines:
                _write(pdf, line, scale)
        return bytes(pdf.output())


def _write(pdf: FPDF, line: Line, scale: float) -> None:
    pdf.set_font(_FONT, size=line.size * scale)
    pdf.set_stretching(100 * line.width / (len(line.text) * line.size * _EM_WIDTH))
    # A blank at the end: viewers pass over a text without extent, and one blank glyph has none before the next begins.
    pdf.text(line.left * scale, line.base * scale, f"{line.text} ")


def _jpeg(picture: Image.Image) -> BytesIO:
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer


def _blank_font(folder: Path, characters: set[str]) -> Path:
    """Write a TrueType font with a glyph without outline for each character; return its file."""
    units = 1000
    names = {ord(char): f"u{ord(char):X}" for char in sorted(characters)}
    order = [".notdef", *names.values()]
    builder = FontBuilder(units, isTTF=True)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap(names)
    builder.setupGlyf({name: Glyph() for name in order})
    builder.setupHorizontalMetrics(dict.fromkeys(order, (round(units * _EM_WIDTH), 0)))
    builder.setupHorizontalHeader(ascent=units, descent=0)
    builder.setupNameTable({"familyName": _FONT, "styleName": "Regular", "fullName": _FONT})
    builder.setupOS2(sCapHeight=units)
    builder.setupPost()
    # Without a fixed time, 1970 in seconds since 1904, the file would name the time of its making.
    builder.updateHead(created=2_082_844_800, modified=2_082_844_800)
    builder.font.recalcTimestamp = False
    path = folder / f"{_FONT}.ttf"
    builder.save(path)
    return path
