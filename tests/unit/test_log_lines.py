"""Log lines: events with fields, never patient data, never the text of a foreign exception."""

from __future__ import annotations

import io
import json
import logging
import warnings

import pytest

from dicom_qa_node import log
from dicom_qa_node.log import RateLimitedLog, log_event


@pytest.fixture
def stream():
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield io.StringIO()
    logging.captureWarnings(False)
    root.handlers[:] = before
    root.setLevel(level)


def test_text_line_has_event_and_quoted_fields(stream):
    log.configure("info", "text", stream)
    log_event(logging.getLogger("x"), logging.INFO, "stored", series="1.2.3", reason="a b", empty="")
    line = stream.getvalue()
    assert 'event=stored series=1.2.3 reason="a b" empty=""' in line
    assert line.count("\n") == 1


def test_a_line_break_cannot_forge_a_line(stream):
    log.configure("info", "text", stream)
    log_event(logging.getLogger("x"), logging.INFO, "rejected", calling_ae="A\n2026 error event=fake")
    assert stream.getvalue().count("\n") == 1


def test_json_line_is_one_object(stream):
    log.configure("info", "json", stream)
    log_event(logging.getLogger("x"), logging.WARNING, "stored", series="1.2.3", count=2)
    record = json.loads(stream.getvalue())
    assert (record["event"], record["level"], record["series"], record["count"]) == ("stored", "warning", "1.2.3", 2)


@pytest.mark.parametrize("field", ["patient_name", "patient_id", "accession_number", "birth_date"])
def test_patient_fields_are_refused(field):
    with pytest.raises(ValueError, match=field):
        log_event(logging.getLogger("x"), logging.INFO, "stored", **{field: "Doe^Jane"})


def test_an_exception_s_text_is_not_written(stream):
    log.configure("info", "text", stream)
    try:
        raise ValueError("Invalid value Doe^Jane for PatientName")
    except ValueError:
        logging.getLogger("x").exception("failed")
    line = stream.getvalue()
    assert "error=ValueError" in line
    assert "test_log_lines.py:" in line
    assert "Doe" not in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_libraries_that_quote_values_are_silent(stream, form):
    log.configure("debug", form, stream)
    for name in ("pydicom", "pynetdicom.acse", "highdicom.sr", "py.warnings"):
        logging.getLogger(name).error("value Doe^Jane is not valid")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("value Doe^Jane is not valid", stacklevel=1)
    assert stream.getvalue() == ""


def test_level_is_respected(stream):
    log.configure("warning", "text", stream)
    log_event(logging.getLogger("x"), logging.INFO, "stored")
    assert stream.getvalue() == ""


def test_a_library_that_sets_its_own_level_later_stays_silent(stream, monkeypatch):
    log.configure("info", "text", stream)
    logger = logging.getLogger("pydicom")
    monkeypatch.setattr(logger, "level", logging.WARNING)
    logger._cache.clear()
    logger.warning("Unknown encoding 'Doe^Jane' - using default encoding instead")
    logging.getLogger("pydicom.filereader").error("Invalid value Doe^Jane")
    assert stream.getvalue() == ""


def test_what_fails_again_and_again_is_told_once_a_minute(stream):
    log.configure("info", "text", stream)
    now = [0.0]
    seldom = RateLimitedLog(logging.getLogger("x"), 60, lambda: now[0])
    for second in range(125):
        now[0] = float(second)
        seldom.log(logging.WARNING, "claim_failed", reason="database is locked")
    seldom.log(logging.WARNING, "claim_failed", reason="no space left")
    lines = [line.split(" x ")[1] for line in stream.getvalue().splitlines()]
    locked = 'event=claim_failed reason="database is locked"'
    assert lines == [
        locked, f"{locked} repeated=59", f"{locked} repeated=59", 'event=claim_failed reason="no space left"',
    ]  # fmt: skip
