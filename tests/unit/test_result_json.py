"""Results in the database and in the archive beside a report keep the keys of earlier releases."""

from __future__ import annotations

import json

from dicom_qa_node.domain.results import ModelRef, SeriesKind, SeriesResult, result_from_json, result_to_json

RESULT = SeriesResult(
    "1.2.3", "CT", SeriesKind.CT, None, None, None, (), (), (), ModelRef("a", "1", "0" * 64), 3,
    stack_name="acquisition 2",
)  # fmt: skip


def test_the_name_of_the_stack_is_written_and_read_under_its_key():
    text = result_to_json(RESULT)
    assert json.loads(text)["part"] == "acquisition 2"
    assert "stack_name" not in json.loads(text)
    assert result_from_json(text) == RESULT
