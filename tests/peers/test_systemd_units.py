"""The shipped units as systemd itself reads them, and the configuration that comes with them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from dicom_qa_node.config import load_config

UNITS = Path(__file__).parents[2] / "systemd"
COMMAND = "/opt/dicom-qa-node/bin/dicom-qa-node"


@pytest.fixture
def installed(tmp_path):
    """Return a function that gives a unit whose command exists."""
    command = tmp_path / "dicom-qa-node"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)

    def install(unit: str, name: str) -> Path:
        text = (UNITS / unit).read_text()
        assert COMMAND in text
        target = tmp_path / name
        target.write_text(text.replace(COMMAND, str(command)))
        return target

    return install


@pytest.mark.peers("systemd-analyze")
@pytest.mark.parametrize(
    ("unit", "name"),
    [
        ("dicom-qa-node.service", "dicom-qa-node.service"),
        ("dicom-qa-node@.service", "dicom-qa-node@receive.service"),
        ("dicom-qa-node@.service", "dicom-qa-node@score.service"),
    ],
)
def test_units_verify_and_are_sandboxed(run_tool, installed, unit, name):
    path = installed(unit, name)
    verified = run_tool("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", path)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    security: subprocess.CompletedProcess[str] = run_tool("systemd-analyze", "security", "--offline=true", path)
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", security.stdout)
    assert exposure is not None, security.stdout + security.stderr
    assert float(exposure[1]) <= 1.5


def test_whole_node_and_single_roles_exclude_each_other():
    assert "Conflicts=dicom-qa-node.service" in (UNITS / "dicom-qa-node@.service").read_text()


def test_service_configuration_is_valid_and_closed():
    config = load_config(UNITS / "config.yaml")
    assert not config.receive.allow_unknown_peers
    assert config.receive.require_called_ae
    assert config.receive.port > 1024
    assert config.web.host == "127.0.0.1"
    assert str(config.spool_dir).startswith("/var/lib/dicom-qa-node/")
    assert config.database_url.startswith("sqlite:////var/lib/dicom-qa-node/")
