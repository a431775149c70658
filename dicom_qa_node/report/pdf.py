"""Writes the page of the companion as PDF (ISO 32000-1): the picture, and its text over it, unseen but to be searched.

The text lies in a font without outlines, stretched to where the words stand on the picture; so it can be found,
copied and read aloud in any script. The same page gives the same bytes.
"""

from __future__ import annotations

import datetime as dt
import zlib
from collections.abc import Sequence
from functools import cache
from io import BytesIO

from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib.tables._g_l_y_f import Glyph
from PIL import Image

from dicom_qa_node.report.canvas import Line

__all__ = ["pdf_page"]

_QUALITY = 90
_BLOCK = 100
_WIDTH = 500
"""Of every character, in thousandths of the font's size; `_shown` stretches the lines to theirs."""


def pdf_page(
    picture: Image.Image, lines: Sequence[Line], *, dpi: float, title: str, language: str, at: dt.datetime
) -> bytes:
    """Return a PDF of one page.

    Parameters
    ----------
    lines
        The text that stands on the picture.
    language
        Of most of it, as RFC 5646 names it.
    at
        Time of creation in the file.
    """
    scale = 72 / dpi
    width, height = picture.width * scale, picture.height * scale
    codes = {
        char: number for number, char in enumerate(sorted({" ", *(char for line in lines for char in line.text)}), 1)
    }
    shown = [f"q {width:.2f} 0 0 {height:.2f} 0 0 cm /Page Do Q BT 3 Tr".encode()]
    shown += [_shown(line, codes, scale, height) for line in lines]
    stamp = at.astimezone(dt.UTC).strftime("(D:%Y%m%d%H%M%SZ)")
    return _file(
        [
            f"<</Type /Catalog /Pages 2 0 R /Lang ({language})>>".encode(),
            b"<</Type /Pages /Kids [3 0 R] /Count 1>>",
            b"<</Type /Page /Parent 2 0 R /MediaBox [0 0 %.2f %.2f] /Contents 5 0 R" % (width, height)
            + b" /Resources <</XObject <</Page 4 0 R>> /Font <</Unseen 6 0 R>>>>>>",
            _picture(picture),
            _stream(b"\n".join([*shown, b"ET"])),
            b"<</Type /Font /Subtype /Type0 /BaseFont /Unseen /Encoding /Identity-H /DescendantFonts [7 0 R]"
            b" /ToUnicode 10 0 R>>",
            b"<</Type /Font /Subtype /CIDFontType2 /BaseFont /Unseen /FontDescriptor 8 0 R /DW %d" % _WIDTH
            + b" /CIDSystemInfo <</Registry (Adobe) /Ordering (Identity) /Supplement 0>> /CIDToGIDMap 11 0 R>>",
            b"<</Type /FontDescriptor /FontName /Unseen /FontFile2 9 0 R /Flags 4 /FontBBox [0 0 %d 1000]" % _WIDTH
            + b" /ItalicAngle 0 /Ascent 1000 /Descent 0 /CapHeight 1000 /StemV 80>>",
            _stream(_font()),
            _stream(_to_unicode(codes)),
            _stream(bytes((0, 1)) * (len(codes) + 1)),
            f"<</Title <{_utf16(title, mark=True)}> /Producer (dicom-qa-node) /CreationDate {stamp}>>".encode(),
        ]
    )


def _shown(line: Line, codes: dict[str, int], scale: float, height: float) -> bytes:
    size = line.size * scale
    stretch = 100 * line.width * scale / (len(line.text) * size * _WIDTH / 1000)
    place = f"{line.left * scale:.2f} {height - line.base * scale:.2f}"
    # Viewers pass over a text without extent, and that of one blank glyph has none before the next begins.
    text = "".join(f"{codes[char]:04X}" for char in f"{line.text} ")
    return f"/Unseen {size:.2f} Tf {stretch:.2f} Tz 1 0 0 1 {place} Tm <{text}> Tj".encode()


def _picture(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    head = f"/Type /XObject /Subtype /Image /Width {picture.width} /Height {picture.height}"
    return _stream(buffer.getvalue(), f"{head} /ColorSpace /DeviceRGB /BitsPerComponent 8", "DCTDecode")


def _to_unicode(codes: dict[str, int]) -> bytes:
    """Return what the codes of the text mean (Adobe technical note 5411)."""
    pairs = [f"<{code:04X}> <{_utf16(char)}>" for char, code in codes.items()]
    blocks = [pairs[start : start + _BLOCK] for start in range(0, len(pairs), _BLOCK)]
    tables = "\n".join(f"{len(block)} beginbfchar\n" + "\n".join(block) + "\nendbfchar" for block in blocks)
    return (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap\n"
        "/CIDSystemInfo <</Registry (Adobe) /Ordering (UCS) /Supplement 0>> def\n"
        "/CMapName /Adobe-Identity-UCS def /CMapType 2 def\n"
        f"1 begincodespacerange\n<0000> <FFFF>\nendcodespacerange\n{tables}\n"
        "endcmap CMapName currentdict /CMap defineresource pop end end"
    ).encode()


def _utf16(text: str, *, mark: bool = False) -> str:
    return ("\ufeff" * mark + text).encode("utf-16-be").hex().upper()


@cache
def _font() -> bytes:
    """Return a TrueType font whose glyphs are blank."""
    names = [".notdef", "blank"]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({32: "blank"})
    builder.setupGlyf({name: Glyph() for name in names})
    builder.setupHorizontalMetrics(dict.fromkeys(names, (_WIDTH, 0)))
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Unseen", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    # Seconds since 1904; without them the file would name the time of its making.
    builder.updateHead(created=0, modified=0)
    builder.font.recalcTimestamp = False
    buffer = BytesIO()
    builder.save(buffer)
    return buffer.getvalue()


def _stream(content: bytes, head: str = "", coding: str = "") -> bytes:
    body = content if coding else zlib.compress(content)
    words = f"<<{head} /Filter /{coding or 'FlateDecode'} /Length {len(body)}"
    extra = "" if coding else f" /Length1 {len(content)}"
    return f"{words}{extra}>>\nstream\n".encode() + body + b"\nendstream"


def _file(objects: Sequence[bytes]) -> bytes:
    """Return a file of these objects; the first is the catalogue, the last describes the document."""
    content = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
    places = []
    for number, item in enumerate(objects, 1):
        places.append(len(content))
        content += b"%d 0 obj\n" % number + item + b"\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    start = len(content)
    content += f"xref\n0 {size}\n0000000000 65535 f \n{table}".encode()
    content += f"trailer\n<</Size {size} /Root 1 0 R /Info {size - 1} 0 R>>\nstartxref\n{start}\n%%EOF\n".encode()
    return bytes(content)
