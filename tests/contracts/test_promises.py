"""What docs/security.md and docs/architecture.md promise names tests and places that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

SECURITY, ARCHITECTURE = ROOT / "docs" / "security.md", ROOT / "docs" / "architecture.md"
TESTS, PACKAGE = ROOT / "tests", ROOT / "dicom_qa_node"
TEST_NAME = re.compile(r"(?:tests/)?((?:unit|integration|contracts|peers|load|training|browser)/\w+\.py)(?:::(\w+))?")
CODE = re.compile(r"`([^`]+)`")


def rows() -> Iterator[tuple[str, str, str]]:
    """Yield threat, places and tests of each row of the tables of docs/security.md that have these columns."""
    columns: list[str] = []
    for line in SECURITY.read_text().splitlines():
        if not line.startswith("|"):
            columns = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not columns:
            columns = [cell.strip() for cell in cells]
        elif "tests" in columns and not set(line) <= set("|- "):
            yield cells[0], cells[columns.index("where")], cells[columns.index("tests")]


ROWS = list(rows())


def named_tests(text: str) -> list[tuple[Path, str]]:
    """Return file and function of each test that a text names in code."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found = [match for code in CODE.findall(text) if (match := TEST_NAME.fullmatch(code))]
    return [(TESTS / match[1], match[2] or "") for match in found]


def exists(path: Path, function: str) -> bool:
    if not path.is_file():
        return False
    nodes = ast.walk(ast.parse(path.read_text())) if function else ()
    return not function or any(isinstance(node, ast.FunctionDef) and node.name == function for node in nodes)


def test_the_tables_are_found() -> None:
    assert len(ROWS) > 40


@pytest.mark.parametrize(("threat", "where", "tests"), ROWS, ids=[row[0][:60] for row in ROWS])
def test_each_row_names_code_and_tests_that_exist(threat: str, where: str, tests: str) -> None:
    named = named_tests(tests)
    assert named, f"no test shows what is promised about: {threat}"
    assert len(named) == len(CODE.findall(tests)), tests
    assert [f"{path}::{function}" for path, function in named if not exists(path, function)] == []
    places = CODE.findall(where)
    assert places, threat
    assert [place for place in places if not ((PACKAGE / place).exists() or (ROOT / place).exists())] == []


@pytest.mark.parametrize("document", [SECURITY, ARCHITECTURE], ids=lambda path: path.name)
def test_every_test_that_is_named_exists(document: Path) -> None:
    named = named_tests(document.read_text())
    assert named
    assert [f"{path}::{function}" for path, function in named if not exists(path, function)] == []


@pytest.mark.parametrize("document", [SECURITY, ROOT / "docs" / "conformance.md"], ids=lambda path: path.name)
def test_every_setting_that_is_named_exists(document: Path) -> None:
    sections = "receive|spool|query|web|score|deliver|complete|alerts|report"
    found = set(re.findall(rf"`((?:{sections})\.[a-z_]+(?:\[\])?(?:\.[a-z_]+)*)(?::[^`]*)?`", document.read_text()))
    known = (ROOT / "docs" / "configuration.md").read_text()
    files = ("_scp", "_scu", "pdata", "store_handler")
    assert len(found) > 5
    assert [key for key in sorted(found) if f"`{key}" not in known and not key.endswith(files)] == []


def promises() -> list[str]:
    text = ARCHITECTURE.read_text().split("## Promises")[1].split("\n## ")[0]
    return re.split(r"\n\d+\. ", text)[1:]


@pytest.mark.parametrize("promise", promises(), ids=[str(number) for number, _ in enumerate(promises(), 1)])
def test_each_promise_of_the_architecture_names_its_tests(promise: str) -> None:
    assert named_tests(promise), promise


def test_networks_are_built_without_a_download() -> None:
    sources = {path: ast.parse(path.read_text()) for path in (PACKAGE / "models").rglob("*.py")}
    calls = [
        (path, {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords})
        for path, tree in sources.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("create_model")
    ]
    assert len(calls) >= 3
    assert [path for path, keywords in calls if keywords.get("pretrained") != "False"] == []
    doors = ("torch.hub", "urlretrieve", "urllib.request", "hf_hub_download", "huggingface_hub")
    texts = {path: path.read_text() for path in (PACKAGE / "models").rglob("*.py")}
    assert [(path, door) for path, text in texts.items() for door in doors if door in text] == []
