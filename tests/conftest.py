"""Fixtures of every test level: free ports, polling with a deadline, processes that end with the test, real peers."""

from __future__ import annotations

import logging
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from pynetdicom import AE
from pynetdicom.association import Association

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.dicom_io.pynetdicom_patches import pause_for_certain
from tests.empty_database import upgrade_by_copy
from tests.postgresql_server import PostgresqlServer, required_programs, running_server

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = Path(os.environ.get("QA_SHARED_DATA", ROOT.parent / "shared" / "data"))
DEBIAN_PACKAGE = {
    "storescu": "dcmtk",
    "storescp": "dcmtk",
    "echoscu": "dcmtk",
    "findscu": "dcmtk",
    "movescu": "dcmtk",
    "getscu": "dcmtk",
    "dsrdump": "dcmtk",
    "dcmdump": "dcmtk",
    "dcmodify": "dcmtk",
    "dciodvfy": "dicom3tools",
    "Orthanc": "orthanc",
    "/usr/share/orthanc/plugins/libOrthancDicomWeb.so": "orthanc-dicomweb",
    "/usr/share/orthanc/plugins/libOrthancPython.so": "orthanc-python",
    "DicomSRValidator": "pixelmed-apps",
    "systemd-analyze": "systemd",
    "chromium": "chromium",
    "dh": "debhelper",
    "ip": "iproute2",
    "lintian": "lintian",
}
T = TypeVar("T")
SEED = 20261128
#: Deadlines of `poll` are written for idle cores; tests run beside each other, and beside whatever else a machine does.
PATIENCE = 3.0
#: Below the ports that outgoing connections get (Linux: 32768), so that none of them takes a port that was picked.
PORTS = range(10_000, 32_000)

# The same examples in every run; HYPOTHESIS_PROFILE=default looks for new ones.
settings.register_profile("fixed", derandomize=True, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def seed_of(variable: str) -> int:
    """Return the seed of random choices: a number or ``random`` in the environment variable, else always the same."""
    named = os.environ.get(variable, str(SEED))
    seed = random.SystemRandom().randrange(10**6) if named == "random" else int(named)
    print(f"{variable}={seed}", flush=True)
    return seed


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let ``.ci/test`` run the tests in two parts."""
    help_ = "only tests that may run beside others, or only those marked serial"
    parser.addoption("--part", choices=("parallel", "serial"), help=help_)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the files without a serial test where only those are wanted: to import all takes a while."""
    if config.getoption("--part") != "serial" or not collection_path.match("test_*.py"):
        return None
    return True if "pytest.mark.serial" not in collection_path.read_text() else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose the part; give runs of hours the time that they need."""
    if part := config.getoption("--part"):
        chosen = [item for item in items if (item.get_closest_marker("serial") is not None) == (part == "serial")]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
        items[:] = chosen
    for item in items:
        if item.get_closest_marker("load") is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(4 * 3600))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check what ``peers("tool", …)`` and ``realdata`` need before the test's fixtures start."""
    for marker in item.iter_markers("peers"):
        for tool in marker.args:
            _tool(tool)
    if item.get_closest_marker("realdata") is not None and not SHARED_DATA.is_dir():
        pytest.skip(f"no real studies at {SHARED_DATA} (set QA_SHARED_DATA)")


def _tool(name: str) -> str:
    found = [shutil.which(name, path=folder) for folder in [*os.get_exec_path(), "/usr/sbin", "/sbin"]]
    path = next((item for item in found if item is not None and not _of_pynetdicom(item)), None)
    if name.startswith("/") and Path(name).exists():
        return name
    if path is None:
        reason = f"{name} is not installed (Debian package {DEBIAN_PACKAGE.get(name, name)})"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return path


def _of_pynetdicom(program: str) -> bool:
    """Return whether this is one of the Python scripts of DCMTK's names that pynetdicom installs; they are no peers."""
    with Path(program).open("rb") as file:
        return b"python" in file.readline(200)


@pytest.fixture(autouse=True)
def _certain_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no peer that a test plays lose an answer to its own reactor; the node's processes see to it themselves."""
    associate = AE.associate

    def certain(ae: AE, *args: Any, **options: Any) -> Association:
        association = associate(ae, *args, **options)
        pause_for_certain(association)
        return association

    monkeypatch.setattr(AE, "associate", certain)


@pytest.fixture(autouse=True)
def _copied_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy the schema of a new database instead of migrating to it, which takes 0.1 s of processor in every test."""
    monkeypatch.setattr(Database, "upgrade", upgrade_by_copy)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Undo what a test's ``log.configure`` did to the loggers of this process."""
    root = logging.getLogger()
    loggers = [root, *(item for item in root.manager.loggerDict.values() if isinstance(item, logging.Logger))]
    handlers, levels = root.handlers[:], [(item, item.level) for item in loggers]
    hooks = sys.excepthook, threading.excepthook
    yield
    sys.excepthook, threading.excepthook = hooks
    root.handlers[:] = handlers
    for logger, level in levels:
        logger.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Return a function that picks a free TCP port on loopback; each call gives another one."""
    return _free_port


_ports = iter(())


def _free_port() -> int:
    """Return the next port that nothing listens on; each process begins elsewhere, so that no two get the same."""
    global _ports
    while True:
        port = next(_ports, None)
        if port is None:
            start = random.Random(os.getpid()).randrange(len(PORTS))
            _ports = iter([*PORTS[start:], *PORTS[:start]])
        elif _bindable(port):
            return port


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def poll_until(condition: Callable[[], T], timeout_s: float = 20, what: str = "") -> T:
    """Call ``condition`` until it returns something true and return that; fail at `PATIENCE` times the deadline."""
    deadline = time.monotonic() + PATIENCE * timeout_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"not within {PATIENCE * timeout_s:g} s: {what or getattr(condition, '__name__', 'condition')}")
        time.sleep(0.05)


@pytest.fixture
def poll() -> Callable[..., Any]:
    """Return ``poll(condition, timeout_s=20, what="")``."""
    return poll_until


@pytest.fixture
def tool_env() -> dict[str, str]:
    """Return the environment of child processes.

    DCMTK sends without Nagle's algorithm, which costs 40 ms per image on loopback; Python finds this package from any
    folder.
    """
    return {**os.environ, "TCP_NODELAY": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def run_tool(tool_env: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return ``run_tool(name, *arguments, timeout_s=60, check=False, cwd=None)`` for a peer tool."""

    def run(
        name: str, *arguments: object, timeout_s: float = 60, check: bool = False, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [_tool(name), *map(str, arguments)]
        done = subprocess.run(
            command, env=tool_env, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=timeout_s
        )
        if check and done.returncode:
            pytest.fail(f"{name} ended with {done.returncode}:\n{done.stdout}{done.stderr}", pytrace=False)
        return done

    return run


@pytest.fixture
def background(tool_env: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return ``background(command, output=None, cwd=None, env=None)``: a process that ends with the test.

    ``output`` is the file that takes what it writes.
    """
    started: list[subprocess.Popen[str]] = []

    def start(
        command: Sequence[object],
        output: Path | None = None,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        first, *rest = map(str, command)
        program = first if "/" in first else _tool(first)
        with (output or Path(os.devnull)).open("w") as sink:
            process = subprocess.Popen(
                [program, *rest], cwd=cwd, env={**tool_env, **(env or {})}, stdout=sink, stderr=sink, text=True
            )
        started.append(process)
        return process

    yield start
    for process in reversed(started):
        _end(process)


def _end(process: subprocess.Popen[str], patience_s: float = 20) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def listening() -> Callable[[int], bool]:
    """Return a function that says whether something accepts connections on a loopback port."""

    def check(port: int) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    return check


@pytest.fixture
def node_config(tmp_path: Path, free_port: Callable[[], int]) -> Config:
    """Return a configuration in the test's own folder: SQLite, free ports, small waits, loopback only."""
    return Config.model_validate(
        {
            "database_url": f"sqlite:///{tmp_path}/node/quality.db",
            "spool_dir": tmp_path / "node" / "spool",
            "receive": {"host": "127.0.0.1", "port": free_port(), "processes": 1},
            "spool": {"min_free_mb": 1, "resume_free_mb": 1},
            "complete": {"quiet_s": 1.0, "pair_wait_s": 5.0, "sweep_s": 0.1},
            "deliver": {"retry_first_s": 0.2, "retry_max_s": 1.0},
            "web": {"host": "127.0.0.1", "port": free_port()},
        }
    )


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """Return a PostgreSQL server of this test run; missing in CI is a failure."""
    with running_server(required_programs()) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return the address of a fresh database: the test runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/q.db"
        return
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    url = server.create()
    yield url
    server.give_back(url)


@pytest.fixture
def any_database(database_url: str) -> Iterator[Database]:
    """Return an open database with the newest schema, of either kind."""
    database = Database(database_url)
    database.upgrade()
    yield database
    database.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real studies; the test is skipped where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real studies at {SHARED_DATA} (set QA_SHARED_DATA)")
    return SHARED_DATA
