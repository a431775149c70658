"""Each kind of attribute matching of PS3.4 C.2.2.2, and the character sets of names."""

from __future__ import annotations

import time

import pytest

from dicom_qa_node.index.matching import matcher_for
from dicom_qa_node.query.identifiers import UnknownCharacterSet, answer_character_set, encodings_of


@pytest.mark.parametrize(
    ("vr", "key", "value", "expected"),
    [
        ("LO", "abc", "abc", True),
        ("LO", "abc", " abc ", True),
        ("LO", "abc", "ABC", False),
        ("LO", "abc", "abcd", False),
        ("LO", "a*", "abc", True),
        ("LO", "*c", "abc", True),
        ("LO", "a*c*e", "abcde", True),
        ("LO", "a*c*f", "abcde", False),
        ("LO", "a?c", "abc", True),
        ("LO", "a?c", "ac", False),
        ("LO", "*?", "", False),
        ("LO", "[a]*", "[a]bc", True),
        ("CS", "CT", "CT", True),
        ("UI", "1.2", "1.2", True),
        ("UI", "1.?", "1.2", False),
        ("PN", "doe^jane", "Doe^Jane", True),
        ("PN", "Doe^Jane", "Doe^Jane^^^", True),
        ("PN", "Doe^Jane^^", "Doe^Jane", True),
        ("PN", "Doe", "Doe^Jane", False),
        ("PN", "DOE*", "Doe^Jane", True),
        ("PN", "山田*", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("PN", "=山田*", "Yamada^Tarou=山田^太郎", True),
        ("PN", "Yamada*=李*", "Yamada^Tarou=山田^太郎", False),
        ("PN", "=山田*", "Yamada^Tarou", False),
        ("PN", "MU\u0308LLER*", "Müller^Jörg", True),
        ("DA", "20260105", "20260105", True),
        ("DA", "20260105", "2026.01.05", True),
        ("DA", "20260101-20260131", "20260131", True),
        ("DA", "20260101-20260131", "20260201", False),
        ("DA", "-20260131", "19990101", True),
        ("DA", "20260131-", "20260130", False),
        ("DA", "2026*", "20260130", False),
        ("TM", "071500", "0715", True),
        ("TM", "0700-0800", "080059.5", True),
        ("TM", "0700-0800", "080100", False),
        ("TM", "-080000", "080000.999999", True),
        ("TM", "070000.5-", "070000.4", False),
        ("DT", "20260105080000-20260106", "20260106235959.9", True),
        ("DT", "20260105080000-20260106", "20260107", False),
        ("DT", "20260105-", "20260104235959+0100", False),
        ("DT", "202601", "20260115120000", True),
        ("IS", "9900", "09900", True),
        ("IS", "9900", "9901", False),
        ("IS", "x", "9901", False),
        ("DS", "1.50", "1.5", True),
    ],
)
def test_one_key_and_one_value(vr, key, value, expected):
    matches = matcher_for(vr, [key])
    assert matches is not None
    assert matches(value) is expected


@pytest.mark.parametrize("keys", [[], [""], ["*"], [" "], ["", ""]])
def test_universal_matching(keys):
    assert matcher_for("LO", keys) is None


def test_several_values_are_alternatives():
    matches = matcher_for("UI", ["1.2", "1.3"])
    assert matches is not None
    assert [matches(value) for value in ("1.2", "1.3", "1.4")] == [True, True, False]


def test_an_empty_value_fulfils_no_key():
    matches = matcher_for("LO", ["a*"])
    assert matches is not None
    assert not matches("")


def test_many_stars_take_no_exponential_time():
    matches = matcher_for("LO", ["*a" * 200 + "b"])
    assert matches is not None
    start = time.perf_counter()
    assert not matches("a" * 1024)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("texts", "asked", "expected"),
    [
        (["plain"], ["ISO_IR 100"], []),
        (["Müller"], ["ISO_IR 100"], ["ISO_IR 100"]),
        (["山田"], ["ISO_IR 100"], ["ISO_IR 192"]),
        (["山田"], ["", "ISO 2022 IR 87"], ["", "ISO 2022 IR 87"]),
        (["王小东"], ["GB18030"], ["GB18030"]),
        (["Люк"], [], ["ISO_IR 192"]),
    ],
)
def test_character_set_of_an_answer(texts, asked, expected):
    assert answer_character_set(texts, asked) == expected


def test_unknown_character_set():
    with pytest.raises(UnknownCharacterSet):
        encodings_of(["ISO_IR 999"])
