"""A scanner's series in, a Structured Report out: the whole node as real processes between real peers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage

from dicom_qa_node.cli.demo_archive import AE_TITLE, start_archive
from dicom_qa_node.config import Config
from dicom_qa_node.phantom import ct_series, petct_study, write

pytestmark = pytest.mark.integration

REPORT_WITHIN_S = 180


@dataclass(frozen=True)
class Node:
    """A running node; ``qa`` runs a command against it."""

    config: Config
    config_path: Path
    log_path: Path
    process: subprocess.Popen[str]

    def qa(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dicom_qa_node", "--config", str(self.config_path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def rows(self, *arguments: str) -> list[dict[str, object]]:
        done = self.qa(*arguments, "--json")
        return json.loads(done.stdout) if done.returncode == 0 else []


@pytest.fixture
def start_node(tmp_path, node_config, background, listening, poll):
    """Return a function that starts ``serve`` with one target on a port."""

    def start(target_port: int, title: str, database_url: str | None = None) -> Node:
        values = node_config.model_dump(mode="json")
        values["database_url"] = database_url or values["database_url"]
        target = {"kind": "dicom", "name": "pacs", "host": "127.0.0.1", "port": target_port, "ae_title": title}
        values["deliver"]["targets"] = [target]
        # A busy machine takes seconds to start the command that sends the CT.
        values["complete"]["pair_wait_s"] = 60
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(values))
        log_path = tmp_path / "node.log"
        process = background(
            [sys.executable, "-m", "dicom_qa_node", "--config", path, "serve"], output=log_path, cwd=tmp_path
        )
        node = Node(node_config, path, log_path, process)
        poll(lambda: listening(node_config.receive.port), 60, f"receiver listens; see {log_path}")
        return node

    return start


def delivered(node: Node, uids: set[str]) -> bool:
    assert node.process.poll() is None, node.log_path.read_text()[-3000:]
    states = {row["series_instance_uid"]: row for row in node.rows("series", "list")}
    parked = [row["reason"] for row in states.values() if row["state"] == "PARKED"]
    assert not parked, parked
    return {uid for uid, row in states.items() if row["state"] == "DELIVERED"} == uids


@pytest.mark.peers("storescu", "storescp")
def test_a_ct_from_storescu_comes_out_as_a_report_at_storescp(
    tmp_path, start_node, background, run_tool, free_port, poll, listening, database_url
):
    images = ct_series(11, slices=12, rows=256)
    uid = str(images[0].SeriesInstanceUID)
    patient = str(images[0].PatientName)
    write(images, tmp_path / "ct")
    kept, port = tmp_path / "pacs", free_port()
    kept.mkdir()
    background(["storescp", "-aet", "PACS", "-od", kept, port])
    poll(lambda: listening(port), 20, "storescp listens")
    node = start_node(port, "PACS", database_url)

    run_tool("storescu", "-aec", "DICOMQA", "+sd", "127.0.0.1", node.config.receive.port, tmp_path / "ct", check=True)
    poll(lambda: delivered(node, {uid}), REPORT_WITHIN_S, f"report delivered; see {node.log_path}")

    (report,) = [dcmread(path) for path in kept.iterdir()]
    assert report.SOPClassUID == Comprehensive3DSRStorage
    assert report.StudyInstanceUID == images[0].StudyInstanceUID
    assert report.PatientID == images[0].PatientID
    (row,) = node.rows("log")
    assert row["series_instance_uid"] == uid
    assert 0 <= row["score"] <= 4
    assert row["interval"][0] <= row["score"] <= row["interval"][1]
    assert len(row["slices"]) == 7
    assert sum(item["weight"] for item in row["slices"]) == pytest.approx(1, abs=1e-3)
    assert row["report_uid"] == report.SOPInstanceUID
    assert row["model"]["sha256"]

    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(60) == 0
    log = node.log_path.read_text()
    assert "event=delivered" in log
    for word in (patient, *patient.split("^"), str(images[0].PatientID)):
        assert word not in log


def test_a_pet_is_scored_with_its_ct_and_a_late_image_scores_again(tmp_path, start_node, free_port, poll):
    ct, pet = petct_study(12, ct_slices=12, ct_rows=128, pet_rows=96)
    held_back = pet.pop()
    write(ct, tmp_path / "ct")
    write(pet, tmp_path / "pet")
    (late,) = write([held_back], tmp_path / "late")
    uids = {str(ct[0].SeriesInstanceUID), str(pet[0].SeriesInstanceUID)}
    kept, port = tmp_path / "archive", free_port()
    server = start_archive(port, kept)
    try:
        node = start_node(port, AE_TITLE)
        for folder in ("pet", "ct"):
            sent = node.qa("send", str(tmp_path / folder), "127.0.0.1", str(node.config.receive.port))
            assert sent.returncode == 0, sent.stderr
        poll(lambda: delivered(node, uids), REPORT_WITHIN_S, f"both reports delivered; see {node.log_path}")
        kinds = {row["modality"]: (row["kind"], row["pair_series_uid"]) for row in node.rows("log")}
        assert kinds == {"CT": ("ct", None), "PT": ("petct", str(ct[0].SeriesInstanceUID))}

        assert node.qa("send", str(late), "127.0.0.1", str(node.config.receive.port)).returncode == 0
        poll(lambda: len(list(kept.glob("*.dcm"))) == 3, REPORT_WITHIN_S, f"the new report; see {node.log_path}")
    finally:
        server.shutdown()
    reports = [dcmread(path) for path in kept.glob("*.dcm")]
    by_uid = {report.SOPInstanceUID: report for report in reports}
    newer = [report for report in reports if "PredecessorDocumentsSequence" in report]
    assert len(newer) == 1
    named = newer[0].PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert by_uid[named.ReferencedSOPInstanceUID].SeriesInstanceUID == newer[0].SeriesInstanceUID
