"""The summary page as PDF: its text can be found, in any script, where it is on the picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta

import numpy as np
import pypdfium2
import pytest
from PIL import Image

from dicom_qa_node.canvas import Canvas, Glyphs, Line
from dicom_qa_node.report.summary_page.pdf import pdf_page
from tests.report_samples import T0

PICTURE = Image.new("RGB", (300, 200), (250, 250, 250))
PICTURE.paste((200, 30, 40), (0, 0, 150, 100))
TITLE = "Qualité (d'image)"


def made(*lines: Line, **changes: object) -> bytes:
    values = {"dpi": 150.0, "title": TITLE, "language": "fr", "at": T0}
    return pdf_page(PICTURE, lines, **(values | changes))


@contextmanager
def opened(pdf: bytes) -> Iterator[pypdfium2.PdfDocument]:
    with closing(pypdfium2.PdfDocument(pdf)) as document:
        yield document


def text_of(pdf: bytes) -> list[str]:
    with opened(pdf) as document, closing(document[0]) as page, closing(page.get_textpage()) as text:
        return [line.strip() for line in text.get_text_range().splitlines()]


def test_a_single_character_is_found():
    assert text_of(made(Line("F", 10, 50, 10, 16))) == ["F"]


@pytest.mark.parametrize(
    "text", ["Müller, Jürgen (50 %)", "山田 太郎", "Люкceмбypг", "홍 길동", "a\U00020bb7b", "\\)<>"]
)
def test_text_in_any_script_is_found(text):
    assert text_of(made(Line("first", 1, 20, 40, 16), Line(text, 10, 50, 120, 16))) == ["first", text]


def test_more_than_a_byte_of_characters_is_found():
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    assert text_of(made(Line(text, 0, 20, 290, 9))) == [text]


def test_text_lies_where_it_is_seen():
    pdf = made(Line("word", 75, 150, 100, 25))
    with opened(pdf) as document, closing(document[0]) as page, closing(page.get_textpage()) as text:
        # 150 dots an inch make 0.48 points a dot; PDF counts from below.
        assert page.get_size() == (pytest.approx(144), pytest.approx(96))
        boxes = [text.get_charbox(number, loose=True) for number in range(4)]
    assert boxes[0][0] == pytest.approx(75 * 0.48, abs=0.1)
    assert boxes[3][2] == pytest.approx(175 * 0.48, abs=0.1)
    assert [box[1] for box in boxes] == pytest.approx([96 - 150 * 0.48] * 4, abs=0.1)
    assert [box[3] - box[1] for box in boxes] == pytest.approx([25 * 0.48] * 4, abs=0.1)


def test_only_the_picture_is_seen():
    """The text leaves no ink: the page is the picture, at its own resolution."""
    lines = [Line("word 山田", 75, 150, 100, 25)]
    with opened(made(*lines)) as document, closing(document[0]) as page:
        seen = np.asarray(page.render(scale=150 / 72).to_pil().convert("RGB")).astype(int)
    assert seen.shape == (200, 300, 3)
    assert np.abs(seen - np.asarray(PICTURE)).mean() < 2
    assert np.abs(seen[100:, 150:] - 250).max() < 30


def test_same_page_gives_the_same_bytes():
    line = Line("word", 10, 20, 30, 16)
    assert made(line) == made(line)
    assert made(line) != made(line, at=T0 + timedelta(seconds=1))


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made(Line("word", 10, 20, 30, 16))
    assert list(tmp_path.iterdir()) == []


def test_title_and_language_are_in_the_file():
    pdf = made()
    assert b"/Lang (fr)" in pdf
    with opened(pdf) as document:
        assert document.get_metadata_value("Title") == TITLE
        assert document.get_metadata_value("CreationDate").startswith(f"D:{T0:%Y%m%d%H%M%S}")
        assert document.get_metadata_value("Producer") == "dicom-qa-node"


def test_what_was_drawn_is_known():
    canvas = Canvas(300, 200, Glyphs(others=[]), (0, 0, 0))
    canvas.text((10, 20), "left", 20)
    width = canvas.text((290, 60), "right", 20, right=True)
    canvas.text((10, 90), "  ", 20)
    first, second = canvas.lines
    assert (first.text, first.left, first.base) == ("left", 10, 39)
    assert (second.text, second.left, second.width) == ("right", 290 - width, width)
