"""Who may import whom, what each process may load, and the bars of style that a machine can check."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "dicom_qa_node"
SOURCES = sorted(PACKAGE.rglob("*.py"))
CHECKED = [*SOURCES, *sorted((ROOT / "training").rglob("*.py"))]
DRAWERS = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers"}
LONGEST_FILE = 600

#: What the processes other than the scorer load before they do their work.
TORCH_FREE = {
    "receive": "dicom_qa_node.receive.server",
    "schedule": "dicom_qa_node.ops.scheduler",
    "deliver": "dicom_qa_node.deliver.delivery_worker",
    "web": "dicom_qa_node.ops.web_server",
    "serve": "dicom_qa_node.ops.supervisor",
    "command line": "dicom_qa_node.cli.app",
    "health": "dicom_qa_node.ops.health",
}
HEAVY = ("torch", "timm", "SimpleITK")


def test_import_contracts_hold():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_whoever_calls_a_peer_pauses_its_reactor_for_certain():
    callers = [path for path in SOURCES if ".associate(" in path.read_text()]
    assert len(callers) >= 2
    assert [path for path in callers if "pause_for_certain(" not in path.read_text()] == []


@pytest.mark.parametrize("process", TORCH_FREE)
def test_no_process_but_the_scorer_loads_torch(process):
    module = TORCH_FREE[process]
    script = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_importing_the_package_imports_nothing_of_it():
    script = "import sys, dicom_qa_node; print(*[n for n in sys.modules if n.startswith('dicom_qa_node.')])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == ""


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def test_no_file_is_too_long():
    lengths = {_name(path): len(path.read_text().splitlines()) for path in CHECKED}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_drawer_modules():
    assert [str(path) for path in CHECKED if DRAWERS & {path.stem, *path.relative_to(ROOT).parts}] == []


def _lengths() -> list[int]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    trees = [_tree(path) for path in SOURCES if "migrations" not in path.parts]
    return [node.end_lineno - node.lineno + 1 for tree in trees for node in ast.walk(tree) if isinstance(node, kinds)]


def test_functions_are_short():
    lengths = _lengths()
    assert statistics.median(lengths) <= 12
    assert statistics.quantiles(lengths, n=10)[-1] <= 40


def _module_level(tree: ast.Module) -> list[ast.AST]:
    """Return what runs at import: everything outside functions."""
    found: list[ast.AST] = []
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found.append(node)
            waiting.extend(ast.iter_child_nodes(node))
    return found


def _reads_settings(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in ("environ", "getenv")
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "load_config"


def test_nothing_reads_settings_at_import():
    found = [(path, node) for path in SOURCES for node in _module_level(_tree(path)) if _reads_settings(node)]
    assert [f"{_name(path)}:{node.lineno}" for path, node in found] == []


def _goes_on(handler: ast.ExceptHandler) -> bool:
    """Whether a handler ends without raising what it caught: one that only tidies up swallows nothing."""
    last = handler.body[-1]
    return not (isinstance(last, ast.Raise) and last.exc is None)


def _broad_handlers(path: Path) -> list[int]:
    handlers = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.ExceptHandler)]
    broad = [
        node
        for node in handlers
        if node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException"))
    ]
    return [node.lineno for node in broad if _goes_on(node)]


#: The three edges (DIMSE, job loop, web) and where they are; reporting, offline scoring and the program that runs
#: pylinac in its own process are job loops too.
EDGES = (
    "receive/", "query/", "score/", "deliver/", "ops/", "web/", "report/report_builder.py", "report/derived_objects.py",
    "cli/offline_scoring.py", "quality_control/pylinac_program.py",
)  # fmt: skip


def test_broad_handlers_stand_at_the_edges_only():
    inside = [path for path in SOURCES if not path.relative_to(PACKAGE).as_posix().startswith(EDGES)]
    assert [f"{_name(path)}:{line}" for path in inside for line in _broad_handlers(path)] == []


def test_only_the_command_line_prints():
    quiet = [path for path in SOURCES if path.relative_to(PACKAGE).parts[0] != "cli"]
    calls = [(path, node) for path in quiet for node in ast.walk(_tree(path)) if isinstance(node, ast.Call)]
    printed = [(path, node) for path, node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]
    assert [f"{_name(path)}:{node.lineno}" for path, node in printed] == []


#: One library, one door: the only places below the package that may import it.
DOORS = {
    "SimpleITK": ("score/",),
    "alembic": ("db/",),
    "apscheduler": ("ops/scheduler.py",),
    "argon2": ("web/auth/passwords.py",),
    "authlib": ("web/auth/oidc.py",),
    "cryptography": ("dicom_io/tls.py",),
    "fastapi": ("web/",),
    "fpdf": ("report/", "monthly_report/document.py"),
    "highdicom": ("report/",),
    "httpx2": (
        "deliver/targets/dicomweb.py",
        "deliver/http_exchange.py",
        "deliver/orthanc/rest_client.py",
        "ops/alert_delivery.py",
        "web/auth/oidc.py",
    ),
    "jinja2": ("web/", "ops/alert_delivery.py"),
    "limits": ("web/",),
    "procrastinate": ("flow/procrastinate_queue.py",),
    "prometheus_client": ("ops/metrics.py",),
    "pynetdicom": (
        "receive/",
        "query/",
        "deliver/targets/dicom",
        "deliver/commitment_scu.py",
        "deliver/commitment_results.py",
        "deliver/retrieve_scu.py",
        "dicom_io/pynetdicom_patches.py",
        "cli/",
    ),
    "sqlalchemy": (
        "db/",
        "flow/",
        "quality_log/",
        "quality_control/",
        "charts/",
        "dose/",
        "monthly_report/",
        "accounts/",
        "index/catalogue.py",
    ),
    "starlette": ("web/",),
    "onnxruntime": ("models/onnx_engine.py",),
    "timm": ("models/",),
    "torch": ("models/",),
    "uvicorn": ("ops/web_server.py",),
    "zxcvbn": ("web/auth/passwords.py",),
}


def _imported(path: Path) -> set[str]:
    nodes = list(ast.walk(_tree(path)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_one_door(library):
    users = [path for path in SOURCES if library in {name.split(".")[0] for name in _imported(path)}]
    names = [path.relative_to(PACKAGE).as_posix() for path in users]
    assert [name for name in names if not name.startswith(DOORS[library])] == []


def _from_pydicom(path: Path) -> set[str]:
    """Return what a module takes from pydicom that reads a file or decodes its text."""
    nodes = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.ImportFrom)]
    return {
        f"{node.module}.{alias.name}"
        for node in nodes
        for alias in node.names
        if node.module
        and (node.module.startswith(("pydicom.charset", "pydicom.filereader")) or alias.name == "dcmread")
    }


def test_text_is_read_through_the_door_that_knows_every_character_set():
    allowed = {"dicom_qa_node.dicom_io.pydicom_patches.dcmread", "pydicom.filereader.read_file_meta_info"}
    doors = ("dicom_io/pydicom_patches.py", "dicom_io/file_reader.py")
    found = {
        path.name: _from_pydicom(path) - allowed
        for path in SOURCES
        if path.relative_to(PACKAGE).as_posix() not in doors
    }
    assert {name: taken for name, taken in found.items() if taken} == {}


FOREIGN = re.compile(r"(?<![\w.])/(?:work|workspace|home/\w+|root)/")
TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".html", ".service", ".conf", ".json", ".txt", ".sh", ".css", ".js", ""}


def test_no_path_of_one_machine_is_named():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.split("\0") if name and Path(name).suffix in TEXT]
    found = []
    for name in names:
        path = ROOT / name
        if path.is_file() and path != Path(__file__):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            found += [f"{name}:{number}" for number, line in enumerate(lines, 1) if FOREIGN.search(line)]
    assert found == []
