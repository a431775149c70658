"""Findings of assembly carry the code of their key into log and report."""

from __future__ import annotations

import pytest

from dicom_qa_node.domain.codes import Code
from dicom_qa_node.domain.results import Finding, Severity
from dicom_qa_node.score.rules.case import INCOMPLETE, PRIVATE_CODES, with_code


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("slices_missing", INCOMPLETE),
        ("petct_not_paired", PRIVATE_CODES["petct_not_paired"]),
        ("suv_not_computable", PRIVATE_CODES["suv_not_computable"]),
        ("gantry_tilt", None),
    ],
)
def test_key_gives_the_code(key, code):
    assert with_code(Finding(key, Severity.INFO, "said")).code == code


def test_a_code_that_is_there_stays():
    own = Code("111213", "DCM", "No image")
    assert with_code(Finding("slices_missing", Severity.INFO, "said", "", own)).code == own
