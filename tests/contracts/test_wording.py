"""Plain technical English in code, pages and documents: the worst patterns stay out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Each with what to write instead.
PATTERNS = {
    r"(?<!there )\b(?:is|are) no (?!longer|more|fewer|less|better|worse|later|older|greater|higher|lower|one\b)[a-z]":
        "is not a …",
    r"\bfor good\b": "permanently",
    r"\bstrangers?\b": "unknown peer, unauthenticated user",
    r"\blist of the living\b": "heartbeats",
    r"\bspeaks? up\b": "reports",
}  # fmt: skip
FOLDERS = ("dicom_qa_node", "training", "docs", "benchmarks", "systemd")
SUFFIXES = {".py", ".md", ".html", ".yaml"}


def texts():
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    return [*files, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_worst_patterns_stay_out(pattern):
    found = [
        f"{path.relative_to(ROOT)}: …{text[max(0, hit.start() - 30) : hit.end() + 20]!r}"
        for path in texts()
        if "vendor" not in path.parts
        for text in [" ".join(path.read_text().split())]
        for hit in re.finditer(pattern, text, re.IGNORECASE)
    ]
    assert found == [], f"write: {PATTERNS[pattern]}"


def test_the_patterns_find_what_they_are_for():
    bad = (
        "the value is no number",
        "refused for good",
        "a stranger asks",
        "off the list of the living",
        "time to speak up",
    )
    for pattern, text in zip(PATTERNS, bad, strict=True):
        assert re.search(pattern, text)
    fine = ("there is no score", "it is no longer there", "the values are not HU")
    assert not any(re.search(pattern, text) for pattern in PATTERNS for text in fine)
