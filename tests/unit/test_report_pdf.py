"""The companion as PDF: its text can be found, in any script, where it stands on the picture."""

from __future__ import annotations

import re
import zlib
from datetime import timedelta
from itertools import pairwise

import pytest
from PIL import Image

from dicom_qa_node.report.canvas import Canvas, Line
from dicom_qa_node.report.glyphs import Glyphs
from dicom_qa_node.report.pdf import pdf_page
from tests.report_samples import T0

PICTURE = Image.new("RGB", (300, 200), (250, 250, 250))
TITLE = "Qualité (d'image)"


def made(*lines: Line, **changes: object) -> bytes:
    values = {"dpi": 150.0, "title": TITLE, "language": "fr", "at": T0}
    return pdf_page(PICTURE, lines, **(values | changes))


def objects_of(pdf: bytes) -> dict[int, bytes]:
    """Return the objects of a file at the places that its cross-reference table names."""
    start = int(re.search(rb"startxref\n(\d+)\n%%EOF", pdf)[1])
    places = [int(place) for place in re.findall(rb"(\d{10}) 00000 n", pdf[start:])]
    bounds = pairwise([*places, start])
    found = {number: pdf[low:high] for number, (low, high) in enumerate(bounds, 1)}
    assert all(item.startswith(b"%d 0 obj\n" % number) for number, item in found.items())
    return found


def content(item: bytes) -> bytes:
    length = int(re.search(rb"/Length (\d+)", item)[1])
    start = item.index(b"stream\n") + 7
    assert item[start + length :].startswith(b"\nendstream")
    return zlib.decompress(item[start : start + length])


def texts_of(pdf: bytes) -> list[str]:
    found = objects_of(pdf)
    means = {
        code: bytes.fromhex(char.decode()).decode("utf-16-be")
        for code, char in re.findall(rb"<(\w{4})> <(\w+)>", content(found[10]))
    }
    shown = re.findall(rb"<(\w+)> Tj", content(found[5]))
    return ["".join(means[text[at : at + 4]] for at in range(0, len(text), 4)) for text in shown]


def test_a_single_character_has_an_extent():
    assert texts_of(made(Line("F", 10, 50, 10, 16))) == ["F "]


@pytest.mark.parametrize(
    "text", ["Müller, Jürgen (50 %)", "山田 太郎", "Люкceмбypг", "홍 길동", "a\U00020bb7b", "\\)<>"]
)
def test_text_in_any_script_is_found(text):
    assert texts_of(made(Line("first", 1, 20, 40, 16), Line(text, 10, 50, 120, 16))) == ["first ", f"{text} "]


def test_more_characters_than_one_table_takes():
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 250)))
    assert texts_of(made(Line(text, 0, 20, 290, 9))) == [f"{text} "]


def test_text_lies_where_it_is_seen():
    (line,) = re.findall(rb"/Unseen ([^\n]+)", content(objects_of(made(Line("word", 75, 150, 100, 25)))[5]))
    size, _, stretch, _, *matrix = line.split(b" ")[:10]
    # 150 dots an inch make 0.48 points a dot; PDF counts from below; four characters of half the size fill the width.
    assert (float(size), float(stretch)) == (12.0, pytest.approx(100 * 48 / 24))
    assert [float(number) for number in matrix] == [1, 0, 0, 1, 36, pytest.approx((200 - 150) * 0.48)]


def test_same_page_gives_the_same_bytes():
    line = Line("word", 10, 20, 30, 16)
    assert made(line) == made(line)
    assert made(line) != made(line, at=T0 + timedelta(seconds=1))


def test_title_and_language_are_told():
    pdf = made()
    assert b"/Lang (fr)" in pdf
    title = re.search(rb"/Title <(\w+)>", pdf)[1].decode()
    assert bytes.fromhex(title).decode("utf-16") == TITLE


def test_what_was_drawn_is_known():
    canvas = Canvas(300, 200, Glyphs(others=[]), (0, 0, 0))
    canvas.text((10, 20), "left", 20)
    width = canvas.text((290, 60), "right", 20, right=True)
    canvas.text((10, 90), "  ", 20)
    first, second = canvas.lines
    assert (first.text, first.left, first.base) == ("left", 10, 39)
    assert (second.text, second.left, second.width) == ("right", 290 - width, width)
