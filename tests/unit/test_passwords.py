"""New passwords: weak ones are refused with a reason, good ones in any language pass; a check takes no time."""

from __future__ import annotations

import time

import pytest

from dicom_qa_node.web.auth.passwords import Passwords
from tests.web_site import PASSWORD


@pytest.fixture(scope="module")
def passwords():
    return Passwords(memory_mb=8, passes=1, min_length=12)


@pytest.mark.parametrize(
    "weak",
    [
        "password2026!!", "passwordpassword", "P@ssw0rdP@ssw0rd", "letmein-letmein", "iloveyou12345", "1234567890123",
        "abcdefghijklm", "qwertyuiopasdf", "aaaaaaaaaaaaaa", "aaaaabbbbbcc1", "abcabcabcabc", "20260105-0800",
        "hospital-hospital", "radiology12345", "dicom-qa-node1", "Radiologist2026!", "scanner-admin1",
        "rudi.reviewer1", "RudiReviewer!!", "reviewer-rudi-1",
    ],
)  # fmt: skip
def test_a_weak_password_is_refused_with_a_reason(passwords, weak):
    problem = passwords.problem(weak, "rudi.reviewer")
    assert problem.startswith("The password is too weak: ")
    assert problem.endswith(". Use more words, less common ones.")
    assert ".." not in problem


@pytest.mark.parametrize(
    "good",
    [PASSWORD, "heavy velvet lantern", "Zwölf Boxkämpfer jagen Viktor", "nRt8-qvX2-mLw5", "山田さんの静かな朝の断層"],
)
def test_a_good_password_passes(passwords, good):
    assert passwords.problem(good, "rudi.reviewer") == ""


def test_length_is_limited_on_both_sides(passwords):
    assert "at least 12" in passwords.problem("nRt8-qvX2", "rudi")
    assert "256 characters at most" in passwords.problem("nRt8-qvX2-mLw5" * 20, "rudi")
    assert passwords.problem("quiet morning tomograph " * 8, "rudi") == ""


@pytest.mark.parametrize("hard", ["aB1!" * 64, "x" * 256, "a1b2c3d4" * 32, "password" * 32])
def test_a_check_takes_little_time(passwords, hard):
    start = time.process_time()
    passwords.problem(hard, "rudi")
    assert time.process_time() - start < 0.5
