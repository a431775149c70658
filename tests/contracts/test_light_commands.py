"""A command starts with what it uses: libraries that take long to load stay out of those that only read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dicom_qa_node.db.engine import Database

#: Each takes a tenth of a second or more, or brings others that do; no command that only reads needs one.
NEVER = {
    "SimpleITK", "PIL", "alembic", "apscheduler", "authlib", "cryptography", "fastapi", "highdicom", "httpx2", "jinja2",
    "matplotlib", "numpy", "pandas", "procrastinate", "prometheus_client", "psycopg", "pydicom", "pynetdicom",
    "requests", "scipy", "starlette", "timm", "torch", "uvicorn",
}  # fmt: skip
#: What the configuration and the database take; a command without them loads neither.
DATABASE, SETTINGS = "sqlalchemy", "yaml"

READING = {
    "log": ["log"],
    "log --json": ["log", "--json"],
    "log --csv": ["log", "--csv"],
    "series list": ["series", "list", "--json"],
    "outbox list": ["outbox", "list", "--json"],
    "show": ["show", "1.2.3", "--json"],
    "outbox explain": ["outbox", "explain", "1.2.3"],
    "health": ["health", "--json"],
    "audit": ["audit", "--json"],
    "reviews list": ["reviews", "list", "--json"],
    "users list": ["users", "list", "--json"],
}
WITHOUT_DATABASE = {
    "models list": ["models", "list", "--json"],
    "config check": ["config", "check"],
    "config show": ["config", "show"],
    "config schema": ["config", "schema"],
}
WITHOUT_SETTINGS = {
    "--help": ["--help"],
    "--version": ["--version"],
    "help of a command": ["log", "--help"],
    "help of a group": ["users", "--help"],
}
SCRIPT = """
import json, sys
from dicom_qa_node.cli.app import run
code = run()
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return the folder of a node that never ran: its configuration and a database without a series."""
    place: Path = tmp_path_factory.mktemp("node")
    (place / "spool").mkdir()
    url = f"sqlite:///{place}/q.db"
    (place / "config.yaml").write_text(f"database_url: {url}\nspool_dir: {place / 'spool'}\n")
    database = Database(url)
    database.upgrade()
    database.close()
    return place


def loaded_by(folder: Path, words: list[str]) -> tuple[int, set[str]]:
    """Run a command in a process of its own; return its exit code and the top packages that it loaded."""
    command = [sys.executable, "-c", SCRIPT, "--config", str(folder / "config.yaml"), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    code, names = json.loads(done.stderr.splitlines()[-1])
    return code, set(names)


@pytest.mark.parametrize("command", READING)
def test_a_command_that_reads_loads_the_database_and_no_more(folder, command):
    code, loaded = loaded_by(folder, READING[command])
    assert code == {"health": 1, "show": 4, "outbox explain": 4}.get(command, 0)
    assert {DATABASE, SETTINGS} <= loaded
    assert loaded & NEVER == set()


@pytest.mark.parametrize("command", WITHOUT_DATABASE)
def test_a_command_without_a_database_loads_none(folder, command):
    code, loaded = loaded_by(folder, WITHOUT_DATABASE[command])
    assert code == 0
    assert SETTINGS in loaded
    assert loaded & {*NEVER, DATABASE} == set()


@pytest.mark.parametrize("command", WITHOUT_SETTINGS)
def test_help_loads_next_to_nothing(folder, command):
    code, loaded = loaded_by(folder, WITHOUT_SETTINGS[command])
    assert code == 0
    assert loaded & {*NEVER, DATABASE, SETTINGS} == set()
