"""Rules that were once written twice stand in one place."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

import dicom_qa_node

PACKAGE = Path(dicom_qa_node.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

#: What a rule looks like where it is written, and the modules or packages (below the package) that may hold it.
ONE_PLACE = {
    "codes of tracers": (r'"(35321007|C-B1031|126500|129502002)"', ("phantom/",)),
    "the 16 and 32 cm phantoms": (r'"11369[01]"', ("phantom/", "domain/dose.py")),
    "parsing of VR DA, TM and DT": (r"valuerep import .*\b(DA|TM|DT)\b", ("report/",)),
    "the oldest child": (r"ADULT_YEARS = ", ("score/body_region.py",)),
    "the names of head scans": (
        r"\bORBIT\b.*\bSINUS\b|\bSINUS\b.*\bORBIT\b", ("score/body_region.py", "score/grading.py"),
    ),
    "the private coding scheme": (r'"99DQAN"', ("domain/codes.py",)),
    "a class of coded concepts": (r"^class Code\b", ("domain/codes.py",)),
    "the largest key of a table": (r"\b2 ?\*\* ?31 ?- ?1\b", (
        "domain/uids.py", "dicom_io/instance_header.py", "web/dicomweb/qido.py",
    )),
    "fsync: durable files": (r"\bos\.fsync\b", (
        "dicom_io/durable.py",
        "spool/incoming.py",  # writes while it receives: its own descriptor, then the same order
        "spool/filesystem_check.py",  # tries what durable files rest on
    )),
    "exponential back-off": (
        r"\b2(\.0)? ?\*\* ?[\(\w]*(attempt|failure|tries)|[Pp]ause_s \* 2|retry\w* \* 2|random\.uniform",
        ("domain/backoff.py", "phantom/"),
    ),
    "drawing of text": (r"\bImage(Font|Draw)\b", ("canvas/",)),
    "reading of files with pydicom": (r"\bpydicom\.dcmread\b|from pydicom import .*\bdcmread\b", (
        "dicom_io/file_reader.py", "dicom_io/pydicom_patches.py",
    )),
}  # fmt: skip


@pytest.mark.parametrize("rule", ONE_PLACE)
def test_a_rule_stands_in_one_place(rule):
    pattern, places = ONE_PLACE[rule]
    found = [
        path.relative_to(PACKAGE).as_posix()
        for path in SOURCES
        if re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert [name for name in found if not name.startswith(places)] == []


#: Names that fit anything, and words for which the field has others (see docs/glossary.md).
VAGUE = {
    "util", "utils", "helper", "helpers", "common", "misc", "manager", "managers", "base", "stuff", "things",
    "further", "door", "edge", "forgery", "gallery", "dossier", "exhibits", "pulse", "folding", "fleet", "tallies",
    "afterwork", "courier", "parts", "pictures", "prompt", "coded", "due", "words", "said", "judge",
}  # fmt: skip
ALLOWED = {"deliver/targets/base.py"}

#: The same file name in two packages, where both are what their package calls it.
SAME_NAME = {
    "__init__", "accounts", "alerts", "app", "audit", "backfill", "charts", "ct", "delivery", "dose", "health",
    "log", "monthly_report", "monthly_reports", "net", "node", "orthanc", "outbox", "pet", "phantoms",
    "quality_and_dose", "quality_log",
    "reference_levels", "registry", "review_queue", "reviews", "roles", "scanners", "scoring", "series",
    "site_setup", "users",
}  # fmt: skip


def test_a_module_is_called_by_what_it_holds():
    named = [path for path in SOURCES if {path.stem, *path.relative_to(PACKAGE).parts[:-1]} & VAGUE]
    assert [str(name) for path in named if (name := path.relative_to(PACKAGE)).as_posix() not in ALLOWED] == []


def test_two_modules_of_one_name_are_known():
    places = defaultdict(list)
    for path in SOURCES:
        places[path.stem].append(path.relative_to(PACKAGE).as_posix())
    assert {stem: names for stem, names in places.items() if len(names) > 1 and stem not in SAME_NAME} == {}


def _module_level_imports(path: Path) -> set[str]:
    found: set[str] = set()
    waiting: list[ast.stmt] = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dicom_qa_node"):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.If | ast.Try | ast.With):
            waiting.extend(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))
    return found


def test_modules_import_each_other_in_no_circle():
    names = {}
    for path in SOURCES:
        dotted = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        names[dotted] = path
    graph = {name: sorted(_module_level_imports(path) & set(names) - {name}) for name, path in names.items()}
    done: set[str] = set()

    def circle(name: str, way: tuple[str, ...]) -> tuple[str, ...]:
        if name in way:
            return (*way[way.index(name) :], name)
        if name in done:
            return ()
        for other in graph[name]:
            if found := circle(other, (*way, name)):
                return found
        done.add(name)
        return ()

    assert [found for name in graph if (found := circle(name, ()))] == []
