"""``make test`` in two parts: what each part runs, when the whole fails, and that no test meets the rows of another."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from dicom_qa_node.accounts.audit import Audit
from dicom_qa_node.db.engine import Database
from tests.postgresql_server import PostgresqlServer

ROOT = Path(__file__).resolve().parents[2]
NONE_COLLECTED = 5
STUB = """#!/usr/bin/env bash
echo "$@" >> "{log}"
case "$*" in *"--part parallel"*) exit {parallel};; *"--part serial"*) exit {serial};; esac
exit 99
"""


def run(folder: Path, parallel: int, serial: int, *arguments: str) -> tuple[int, list[str]]:
    """Run the script with an interpreter that ends each part with a code; return its code and what was started."""
    stub = folder / "python"
    stub.write_text(STUB.format(log=folder / "log", parallel=parallel, serial=serial))
    stub.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(stub), "WORKERS": "3"}
    command = [ROOT / ".ci" / "test", "not load", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, (folder / "log").read_text().splitlines()


@pytest.mark.parametrize(
    ("parallel", "serial", "code"),
    [
        (0, 0, 0),
        (0, NONE_COLLECTED, 0),
        (NONE_COLLECTED, 0, 0),
        (1, 0, 1),
        (0, 1, 1),
        (1, NONE_COLLECTED, 1),
        (NONE_COLLECTED, 1, 1),
        (3, 0, 3),
        (0, 4, 4),
        (NONE_COLLECTED, NONE_COLLECTED, NONE_COLLECTED),
    ],
)
def test_the_run_fails_if_a_part_fails_or_nothing_ran(tmp_path, parallel, serial, code):
    ended, started = run(tmp_path, parallel, serial)
    assert ended == code
    assert len(started) == 2, "the second part runs even if the first failed"


def test_both_parts_choose_the_same_tests_and_show_the_slowest(tmp_path):
    _, (first, second) = run(tmp_path, 0, 0, "-k", "spool")
    for part in (first, second):
        assert "--durations=30" in part
        assert "-k spool -m not load" in part
    assert "-n 3" in first
    assert "-n" not in second.split()


def test_a_test_marked_serial_is_in_one_part_only(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import pytest\ndef test_beside(): pass\n@pytest.mark.serial\ndef test_alone(): pass\n"
    )
    found = {}
    for part in ("parallel", "serial"):
        command = ["--part", part, "--collect-only", "-q", "-p", "tests.conftest", "-c", ROOT / "pyproject.toml"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *map(str, command), str(tmp_path)],
            cwd=ROOT, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        found[part] = [line.rpartition("::")[2] for line in done.stdout.splitlines() if "::" in line]
    assert found == {"parallel": ["test_beside"], "serial": ["test_alone"]}


def _first_entry(url: str) -> int:
    """Write to the append-only audit log; return the number of the entry."""
    with closing(Database(url)) as database:
        Audit(database).record("trial", actor="ada")
        (entry,) = Audit(database).after(0)
        return entry.audit_id


def test_a_database_that_was_given_back_has_no_rows_of_the_test_before(postgresql: PostgresqlServer):
    url = postgresql.create()
    first = _first_entry(url)
    postgresql.give_back(url)
    assert postgresql.create() == url
    assert _first_entry(url) == first, "neither the row nor the count of the sequence is left"


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE trial (a int)",
        "ALTER TABLE audit_log DISABLE TRIGGER ALL",
        "DROP INDEX ix_outbox_state",
        "ANALYZE",
    ],
)
def test_a_database_with_another_schema_is_not_used_again(postgresql: PostgresqlServer, change):
    url = postgresql.create()
    with closing(psycopg.connect(url.replace("+psycopg", ""), autocommit=True)) as connection:
        connection.execute(change)
    postgresql.give_back(url)
    assert postgresql.create() != url


def test_a_database_in_use_is_not_used_again(postgresql: PostgresqlServer):
    url = postgresql.create()
    with closing(psycopg.connect(url.replace("+psycopg", ""))):
        postgresql.give_back(url)
        assert postgresql.create() != url
