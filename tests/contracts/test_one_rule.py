"""Rules that were once written twice stand in one place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dicom_qa_node

PACKAGE = Path(dicom_qa_node.__file__).parent

ONE_PLACE = {
    "codes of tracers": (r'"(35321007|C-B1031|126500|129502002)"', ("phantom",)),
    "the 16 and 32 cm phantoms": (r'"11369[01]"', ("phantom",)),
    "parsing of VR DA, TM and DT": (r"valuerep import .*\b(DA|TM|DT)\b", ("report",)),
    "the oldest child": (r"ADULT_YEARS = ", ("body_region.py",)),
    "the names of head scans": (r"\bORBIT\b.*\bSINUS\b|\bSINUS\b.*\bORBIT\b", ("body_region.py", "grading.py")),
}


@pytest.mark.parametrize("rule", ONE_PLACE)
def test_a_rule_stands_in_one_place(rule):
    pattern, places = ONE_PLACE[rule]
    elsewhere = [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if not set(places) & {path.name, *path.relative_to(PACKAGE).parts}
        and re.search(pattern, path.read_text(encoding="utf-8"))
    ]
    assert not elsewhere
