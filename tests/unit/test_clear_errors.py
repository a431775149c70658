"""What is typed or written wrongly is answered by a sentence, never by a traceback or another meaning in silence."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys

import pytest
import typer

from dicom_qa_node.cli.config_commands import _warnings
from dicom_qa_node.cli.quality_log import parse_since
from dicom_qa_node.config import Config, InvalidConfig
from dicom_qa_node.config.loader import parse_config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.report.report_builder import report_pending
from tests.report_samples import verdict, write_series
from tests.unit.test_report_build import scored


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("receive: {port: 0104}", "0104 has a leading zero"),
        ("receive: {port: 00104}", "00104 has a leading zero"),
        ("alerts: {quiet_from: 22:00, quiet_until: '06:00'}", "22:00 is a number to the base of 60"),
    ],
)
def test_a_number_that_yaml_reads_otherwise_is_refused(text, says):
    with pytest.raises(InvalidConfig, match=says):
        parse_config(text)


@pytest.mark.parametrize(("text", "port"), [("104", 104), ("0", 0), ("0x68", 104), ("1_104", 1104)])
def test_other_numbers_are_read(text, port):
    assert parse_config(f"receive: {{port: {text}}}").receive.port == port


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"receive": {"port": 8080}}, "receive.port and web.port are both 8080"),
        ({"score": {"model": "no_such_network"}}, "score.model: "),
        ({"receive": {"allow_unknown_peers": False, "peers": []}}, "nobody may send to this node"),
    ],
)
def test_config_check_names_what_cannot_work(values, says):
    assert any(says in note for note in _warnings(Config.model_validate(values)))


def test_config_check_has_nothing_to_say_of_ports_that_are_free():
    config = Config.model_validate({"receive": {"port": 0}, "web": {"port": 0}})
    assert not any("both" in note for note in _warnings(config))


@pytest.mark.parametrize("text", ["0001-01-01", "99999999d", "99999999999w", "yesterday", "٣d"])
def test_a_time_that_cannot_be_is_a_wrong_argument(text, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    with pytest.raises(typer.BadParameter):
        parse_since(text)


def test_a_usual_time_is_read():
    assert parse_since("2026-01-05").tzinfo is dt.UTC


@pytest.fixture
def node(tmp_path):
    config = Config.model_validate({"spool_dir": tmp_path / "spool", "database_url": f"sqlite:///{tmp_path}/q.db"})
    database = Database(config.database_url)
    database.upgrade()
    instances = write_series(config.spool_dir, PatientName="Люкceмбypг^Роза", SpecificCharacterSet="ISO_IR 144")
    scored(database, instances, verdict(instances))
    report_pending(Outbox(database), Registry(database), config.spool_dir, config)
    database.close()
    file = tmp_path / "config.yaml"
    file.write_text(f"spool_dir: {config.spool_dir}\ndatabase_url: {config.database_url}\n")
    return file, instances[0].series.series_instance_uid


def command(file, *arguments, **environment):
    line = [sys.executable, "-m", "dicom_qa_node", "--config", str(file), *arguments]
    return subprocess.run(line, capture_output=True, env={**os.environ, **environment}, timeout=120, check=False)


def test_a_terminal_without_the_letters_of_a_name_shows_their_codes(node):
    file, uid = node
    done = command(file, "show", uid, PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr.decode("latin-1")
    assert rb"\u041b\u044e" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("log", "--limit", "9" * 20),
        ("outbox", "retry", "9" * 20),
        ("outbox", "list", "--after", "9" * 20),
        ("series", "list", "--limit", "9" * 20),
        ("log", "--since", "0001-01-01"),
        ("show", b"\xff\xfe"),
        ("log", "--scanner", b"\xff\xfe"),
    ],
)
def test_numbers_and_bytes_out_of_range_are_a_wrong_command_line(node, arguments):
    file, _ = node
    done = command(file, *arguments)
    assert b"Traceback" not in done.stderr
    assert done.returncode in (2, 4), done.stderr
    assert done.stderr.strip()
