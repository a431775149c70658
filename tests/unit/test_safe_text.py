"""No control or directional character of a header reaches a terminal, log line, mail, page or spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import logging
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from dicom_qa_node import log
from dicom_qa_node.cli import output
from dicom_qa_node.safe_text import csv_cell, escaped_json, visible, visible_lines
from dicom_qa_node.web.templating import environment

HOSTILE = "CT\x1b[2J\x1b]0;pwn\x07\x9b31m\u202eevil\u2066\x7f"
RAW = "\x1b\x07\x9b\u202e\u2066\x7f"


def holds_raw(text):
    return [c for c in text if c in RAW]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_visible_text_has_no_controls(text):
    assert not [c for c in visible(text) if ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202a\u202e\u2066\u200f"]
    assert visible(visible(text)) == visible(text)


def test_escapes_name_the_character():
    assert visible("a\x1bb\n\t\u202e") == r"a\x1bb\n\t\u202e"
    assert visible_lines("a\nb\x1b") == "a\nb\\x1b"
    assert visible("Grüße 日本") == "Grüße 日本"


def test_json_keeps_its_meaning():
    document = json.dumps({"station": HOSTILE}, ensure_ascii=False)
    assert json.loads(escaped_json(document)) == {"station": HOSTILE}
    assert holds_raw(escaped_json(document)) == []


@pytest.mark.parametrize(
    ("value", "cell"),
    [("=1+1", "'=1+1"), ("@SUM(A1)", "'@SUM(A1)"), ("CT7", "CT7"), (-1.5, "-1.5"), ("", ""), (None, ""),
     ("\t=1+1", "'\\t=1+1"), (HOSTILE, visible(HOSTILE))],
)  # fmt: skip
def test_cells_are_no_formulas(value, cell):
    assert csv_cell(value) == cell


def test_terminal(capsys):
    output.say(HOSTILE)
    output.complain(HOSTILE)
    output.show_json({"station": HOSTILE})
    output.show_rows("", [{"station": HOSTILE}], as_json=False, empty="")
    out, err = capsys.readouterr()
    assert "CT" in out
    assert holds_raw(out + err) == []


@pytest.mark.parametrize("form", ["text", "json"])
def test_log_line(form):
    stream, root = io.StringIO(), logging.getLogger()
    kept = root.handlers[:], root.level, sys.excepthook, threading.excepthook
    try:
        log.configure("info", form, stream)
        log.log_event(logging.getLogger("test"), logging.INFO, "stored", station=HOSTILE)
    finally:
        root.handlers[:], root.level, sys.excepthook, threading.excepthook = kept
        logging.captureWarnings(False)
    assert "stored" in stream.getvalue()
    assert holds_raw(stream.getvalue()) == []


def test_page_and_spreadsheet():
    made = environment().from_string("<b>{{ text }}</b>{{ mark }}")
    page = made.render(text=HOSTILE, mark=Markup("<i>&amp;</i>"))
    assert "<i>&amp;</i>" in page
    assert holds_raw(page) == []
    out = io.StringIO()
    csv.writer(out).writerow([csv_cell(HOSTILE)])
    assert holds_raw(out.getvalue()) == []
