"""The demo is a promise of the README: studies through C-STORE, scores in the right order, reports at the archive."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage

from dicom_qa_node.cli.demo_run import CT_BEST_FIRST, count
from dicom_qa_node.cli.demo_run import free_port as port_or_free

pytestmark = pytest.mark.integration


def test_demo_delivers_every_report_and_orders_the_ct_scores(tmp_path):
    command = [sys.executable, "-m", "dicom_qa_node", "demo", "--once", "--folder", str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]

    rows = [line for line in done.stdout.splitlines() if "DELIVERED" in line]
    assert len(rows) == count()
    scores = [float(re.search(rf"{label}\W+(\d\.\d\d) \[", done.stdout)[1]) for label in CT_BEST_FIRST.values()]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)

    reports = [dcmread(path) for path in (tmp_path / "demo" / "archive").glob("*.dcm")]
    assert [report.SOPClassUID for report in reports] == [Comprehensive3DSRStorage] * count()
    named = re.findall(r"^  (?:picture|report) +(\S+)$", done.stdout, re.MULTILINE)
    assert len(named) == 2 * count()
    assert all(Path(path).is_file() for path in named)
    assert "Generated^" not in (tmp_path / "demo" / "node.log").read_text()


def test_demo_takes_free_ports_when_the_standard_ones_are_taken(listening):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert port_or_free(port) != port
    assert not listening(port)


def test_demo_configuration_is_a_valid_one(tmp_path):
    from dicom_qa_node.cli.demo_run import _write_config
    from dicom_qa_node.config import load_config

    path = _write_config(tmp_path, 11113)
    assert load_config(path).deliver.targets[0].name == "archive"
    assert yaml.safe_load(path.read_text())["receive"]["host"] == "127.0.0.1"
