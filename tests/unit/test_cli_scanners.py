"""``scanners``: what the commands show, change and audit."""

from __future__ import annotations

import json
import sys

import pytest

from dicom_qa_node.accounts.audit import Audit, AuditFilter
from dicom_qa_node.cli.app import run
from dicom_qa_node.cli.exit_codes import ExitCode
from dicom_qa_node.db.engine import Database
from tests.unit.test_drift_alarms import Hospital


@pytest.fixture
def node(tmp_path, monkeypatch):
    """Return a database with a drift, whose configuration the commands find."""
    (tmp_path / "q.db").touch()
    url = f"sqlite:///{tmp_path}/q.db"
    (tmp_path / "spool").mkdir()
    (tmp_path / "node.yaml").write_text(f"database_url: {url}\nspool_dir: {tmp_path}/spool\n")
    monkeypatch.setenv("DICOM_QA_NODE_CONFIG", str(tmp_path / "node.yaml"))
    database = Database(url)
    database.upgrade()
    hospital = Hospital(database)
    hospital.scan(100)
    hospital.scan(60, noise=1.25)
    hospital.chart()
    yield database
    database.close()


@pytest.fixture
def qa(monkeypatch, capsys):
    """Run ``scanners`` in this process; returns what it printed, None where it failed."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["dicom-qa-node", "scanners", *words])
        code = run()
        out = capsys.readouterr().out
        return out if code == ExitCode.OK else None

    return call


def test_scanners_alarms_and_baselines(node, qa):
    (row,) = json.loads(qa("list", "--json"))
    assert (row["name"], row["stands"], row["alarms"], row["series"]) == ("CT1", "drift", 1, 160)
    (alarm,) = json.loads(qa("alarms", "--json"))
    assert alarm["cause"].startswith("Image chain: Noise rose by ")
    assert "new baseline from" in qa("accept", str(alarm["alarm"]), "--reason", "new protocol")
    assert qa("accept", "99") is None
    assert "1 charts begin anew" in qa("new-baseline", "1", "--since", "2026-03-04")
    assert qa("new-baseline", "9", "--since", "2026-03-04") is None
    events = [entry.event for entry in Audit(node).entries(AuditFilter(), limit=9)]
    assert events.count("baseline.accept") == 2


def test_names_are_given_and_taken_back(node, qa):
    assert "is called Room 3" in qa("name", "1", "Room 3")
    assert "is called CT1" in qa("name", "1", "")
    assert "shown as Thorax" in qa("protocol", "Chest", "Thorax")
    assert "shown as Chest" in qa("protocol", "Chest", "")
    assert qa("merge", "1", "1") is None
    assert "stands for itself" in qa("merge", "1", "0")
    assert {"scanner.name", "protocol.name", "scanner.merge"} <= {
        entry.event for entry in Audit(node).entries(AuditFilter(), limit=9)
    }
