"""The bridge and a real Orthanc: whatever happens to either side, the score ends up on the series."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from pydicom import Dataset, dcmread
from pydicom.uid import MRImageStorage

from dicom_qa_node.cli.app import run
from dicom_qa_node.config import Config, load_config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.deliver.orthanc.bridge import Bridge
from dicom_qa_node.deliver.send_files import Peer, files_below, send_files
from dicom_qa_node.domain.errors import NodeError
from dicom_qa_node.domain.results import Grade
from dicom_qa_node.domain.states import BridgeState, SeriesState
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.orthanc_ledger import OrthancLedger
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.phantom import ct_series
from dicom_qa_node.phantom import write as write_phantom
from dicom_qa_node.report.report_builder import report_pending
from tests.peers.orthanc_archive import Archive
from tests.peers.orthanc_peer import OrthancPeer
from tests.report_samples import verdict, write_series

pytestmark = [pytest.mark.peers("Orthanc"), pytest.mark.integration]

SCORED = {"Score": "2.83", "Grade": "diagnostic"}


@dataclass
class Node:
    """A node whose receiver is a process and whose other steps are taken by the test."""

    folder: Path
    config: Config
    database: Database
    background: Any
    archive: Archive
    receiver: Any = None

    @property
    def registry(self) -> Registry:
        return Registry(self.database)

    @property
    def ledger(self) -> OrthancLedger:
        return OrthancLedger(self.database, "orthanc")

    def receive(self) -> None:
        command = [sys.executable, "-m", "dicom_qa_node", "--config", self.folder / "node.yaml", "receive"]
        self.receiver = self.background(command, output=self.folder / "receive.log")

    def bridge(self) -> Bridge:
        return Bridge(self.config, self.database, "test")

    def score(self, **changes: object) -> None:
        """Complete, score and report what has arrived."""
        for progress in self.registry.receiving():
            self.registry.complete(progress, reason="test")
        jobs = Jobs(self.database)
        while (job := jobs.claim("w")) is not None:
            jobs.finish(job, verdict(self.registry.instances(job.series_instance_uid), **changes))
        report_pending(Outbox(self.database), self.registry, self.config.spool_dir, self.config)


def write_settings(folder: Path, port: int, http: int, **more: Any) -> Config:
    values = {
        "database_url": f"sqlite:///{folder}/q.db",
        "spool_dir": str(folder / "spool"),
        "receive": {"host": "127.0.0.1", "port": port, "processes": 1},
        "spool": {"min_free_mb": 1, "resume_free_mb": 1},
        "complete": {"quiet_s": 1.0, "sweep_s": 0.1},
        "orthanc": {
            "url": f"http://127.0.0.1:{http}", "poll_s": 0.2, "retry_first_s": 0.2, "retry_max_s": 1.0,
            "report_wait_s": 0.0,
        } | more.pop("orthanc", {}),
    } | more  # fmt: skip
    (folder / "node.yaml").write_text(yaml.safe_dump(values))
    return load_config(folder / "node.yaml")


@pytest.fixture
def node(tmp_path, free_port, background, poll) -> Iterator[Node]:
    """Return a node and its Orthanc, neither of them started."""
    peer = OrthancPeer(free_port(), free_port())
    config = write_settings(tmp_path, free_port(), peer.http_port)
    database = Database(config.database_url)
    database.upgrade()
    yield Node(tmp_path, config, database, background, Archive(tmp_path, peer, background, poll, config))
    database.close()


def images(folder: Path, number: int = 1, **changes: object) -> list[Path]:
    write_series(folder / f"images{number}", number, **changes)
    return files_below([folder / f"images{number}"])


def until(bridge: Bridge, poll: Any, condition: Any, what: str, timeout_s: float = 40) -> None:
    """Take steps of the bridge until something is so; what Orthanc does not answer is taken again."""

    def step() -> bool:
        try:
            bridge.step()
        except NodeError:
            return False
        return bool(condition())

    poll(step, timeout_s, what)


def marked(node: Node, number: int = 1) -> Any:
    def check() -> bool:
        states = [item.state for item in node.ledger.listed(list(BridgeState))]
        return states == [BridgeState.MARKED] * number

    return check


def written(node: Node) -> dict[str, str]:
    (series,) = node.archive.series_of("CT")
    return node.archive.metadata(series)


def test_node_down_orthanc_restarted_series_sent_again(node, poll, tmp_path):
    """All end with the score on the series, which is sent once, and with one report in the archive."""
    archive, files = node.archive, images(tmp_path)
    archive.start()
    bridge = node.bridge()
    bridge.step()
    archive.add(files)

    def failed_twice() -> bool:
        return any(item.attempts >= 2 and "not sent" in item.problem for item in node.ledger.listed(list(BridgeState)))

    until(bridge, poll, failed_twice, "two attempts while the node is down")
    node.receive()
    until(bridge, poll, lambda: node.registry.receiving(), "the images have arrived")
    archive.stop()
    with pytest.raises(NodeError, match="no connection"):
        bridge.step()
    poll(lambda: [item.received for item in node.registry.receiving()] == [9], 20, "every image is recorded")
    node.score()
    archive.start()
    # The bridge restarts as well: nothing of it was in memory.
    bridge = node.bridge()
    until(bridge, poll, marked(node), "the score is on the series")
    found = written(node)
    assert {key: found[key] for key in SCORED} == SCORED
    assert found["Report"] == Outbox(node.database).report(node.registry.list_series()[0].facts.series_instance_uid)\
        .sop_instance_uid  # fmt: skip
    (series,) = archive.series_of("CT")
    (report,) = archive.series_of("SR")
    assert len(archive.ask(f"series/{report}")["Instances"]) == 1
    assert archive.text(f"series/{series}/attachments/ImageQualityPage/data")[:5] == "%PDF-"
    # The same images once more, and somebody has removed the score.
    archive.delete(f"series/{series}/metadata/ImageQualityScore")
    archive.stop()
    archive.more["OverwriteInstances"] = True
    archive.start()
    archive.add(files)
    until(bridge, poll, lambda: "Score" in written(node), "the score is there again")
    until(bridge, poll, marked(node), "and all is done")
    (row,) = node.registry.list_series()
    assert (row.version, row.received, row.conflicts) == (1, 9, 0)


def test_a_late_image_brings_a_second_score(node, poll, tmp_path):
    archive, files = node.archive, images(tmp_path)
    archive.start()
    node.receive()
    bridge = node.bridge()
    bridge.step()
    archive.add(files[:8])
    until(bridge, poll, lambda: [item.received for item in node.registry.receiving()] == [8], "eight images")
    node.score()
    until(bridge, poll, marked(node), "the first score")
    archive.add(files[8:])
    until(bridge, poll, lambda: [item.received for item in node.registry.receiving()] == [9], "the ninth image")
    node.score(score=1.4, interval=(1.0, 1.8), grade=Grade.NON_DIAGNOSTIC)
    until(bridge, poll, lambda: written(node).get("Score") == "1.40", "the second score")
    assert written(node)["Grade"] == "non-diagnostic"
    (report,) = archive.series_of("SR")
    assert len(archive.ask(f"series/{report}")["Instances"]) == 2


@pytest.mark.parametrize("refilled", [1, 3])
def test_a_new_database_of_orthanc_is_noticed(node, poll, tmp_path, refilled):
    """It has fewer changes than were read, or more: the numbers alone do not show it."""
    archive = node.archive
    archive.start()
    node.receive()
    bridge = node.bridge()
    bridge.step()
    archive.add(images(tmp_path))
    until(bridge, poll, lambda: node.registry.receiving(), "the images have arrived")
    poll(lambda: [item.received for item in node.registry.receiving()] == [9], 20, "all of them")
    node.score()
    until(bridge, poll, marked(node), "the score is on the series")
    archive.stop()
    archive.empty()
    archive.start()
    assert archive.ask("series") == []
    for number in range(1, refilled + 1):
        archive.add(images(tmp_path, number, slices=9))
    poll(lambda: len(archive.ask("changes?since=0&limit=1000")["Changes"]) > 9 + refilled, 20, "stable")
    until(bridge, poll, lambda: len(node.registry.list_series()) == refilled, "every series has arrived")
    poll(lambda: sum(row.received for row in node.registry.list_series()) == 9 * refilled, 20, "every image")
    node.score()

    def all_there() -> bool:
        written_on = [archive.metadata(series) for series in archive.series_of("CT")]
        return len(archive.series_of("SR")) == refilled and all(SCORED.items() <= found.items() for found in written_on)

    until(bridge, poll, all_there, "every series has its score, and its report is in the archive")
    until(bridge, poll, marked(node, refilled), "and all is done")


def test_names_that_orthanc_does_not_know_are_asked_for_with_the_lines_to_copy(node, poll, tmp_path, capsys):
    archive = node.archive
    archive.start(without=["UserMetadata"])
    node.receive()
    bridge = node.bridge()
    bridge.step()
    archive.add(images(tmp_path))
    until(bridge, poll, lambda: [item.received for item in node.registry.receiving()] == [9], "nine images")
    node.score()
    until(bridge, poll, lambda: bridge.problem, "a problem is named")
    assert "does not know 'ImageQualityScore'" in bridge.problem
    lines = bridge.problem.split("restart it:\n")[1]
    assert json.loads(f"{{{lines}}}")["UserMetadata"]["ImageQualityScore"] == 5101
    archive.stop()
    archive.start()
    until(bridge, poll, marked(node), "the score is on the series")
    assert (written(node)["Score"], bridge.problem) == ("2.83", "")


def test_a_modality_that_orthanc_does_not_know_is_asked_for(node, poll, tmp_path, monkeypatch, capsys):
    archive = node.archive
    archive.start(without=["DicomModalities"])
    bridge = node.bridge()
    bridge.step()
    archive.add(images(tmp_path))
    until(bridge, poll, lambda: bridge.problem, "a problem is named")
    assert "DicomModalities has no 'dicomqa'" in bridge.problem
    monkeypatch.setattr("sys.argv", ["dicom-qa-node", "--config", str(tmp_path / "node.yaml"), "orthanc", "--check"])
    assert run() == 1
    printed = capsys.readouterr()
    assert "DicomModalities has no 'dicomqa'" in printed.err
    assert '"DicomModalities": {"dicomqa": ["DICOMQA", "HOST-OF-THE-NODE",' in printed.out
    archive.stop()
    archive.start()
    node.receive()
    until(bridge, poll, lambda: node.registry.receiving(), "the images have arrived")
    assert bridge.problem == ""


def test_the_lua_script_of_the_how_to_page_sends_stable_series(node, poll, tmp_path, listening):
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "orthanc.md").read_text(encoding="utf-8")
    (tmp_path / "route.lua").write_text(page.split("```lua\n")[1].split("```")[0])
    node.archive.more["LuaScripts"] = [str(tmp_path / "route.lua")]
    node.archive.start()
    node.receive()
    poll(lambda: listening(node.config.receive.port), 40, "the receiver listens")
    node.archive.add(images(tmp_path) + magnetic_resonance(tmp_path))
    poll(lambda: [row.received for row in node.registry.list_series()] == [9], 40, "the CT arrives, the MR does not")


def magnetic_resonance(folder: Path) -> list[Path]:
    paths = images(folder, 7, modality="CT", slices=2)
    for path in paths:
        image: Dataset = dcmread(path)
        image.Modality, image.SOPClassUID = "MR", MRImageStorage
        image.file_meta.MediaStorageSOPClassUID = MRImageStorage
        image.save_as(path)
    return paths


def test_from_the_scanner_to_orthanc_to_the_node_and_back(tmp_path, free_port, background, poll):
    """Every role is a process: images by C-STORE to Orthanc, the report back by C-STORE, the score on the series."""
    peer = OrthancPeer(free_port(), free_port())
    target = {"kind": "dicom", "name": "pacs", "host": "127.0.0.1", "port": peer.dicom_port, "ae_title": "ORTHANC"}
    config = write_settings(
        tmp_path, free_port(), peer.http_port, deliver={"targets": [target], "retry_first_s": 0.2},
        orthanc={"target": "pacs", "report_wait_s": 600.0},
    )  # fmt: skip
    archive = Archive(tmp_path, peer, background, poll, config)
    archive.start()
    database = Database(config.database_url)
    database.upgrade()
    for role in ("receive", "schedule", "score", "deliver", "orthanc"):
        command = [sys.executable, "-m", "tests.single_host", "here", tmp_path / "node.yaml", role]
        background(command, output=tmp_path / f"{role}.log")
    ledger = OrthancLedger(database, "orthanc")
    poll(ledger.position, 60, "the bridge has found Orthanc")
    write_phantom(ct_series(1, slices=24, rows=96), tmp_path / "scanner")
    scanner = Peer("127.0.0.1", peer.dicom_port, "ORTHANC", "SCANNER", 10)
    assert send_files(files_below([tmp_path / "scanner"]), scanner).failed == []
    archive.add(magnetic_resonance(tmp_path))

    def scores() -> list[dict[str, str]]:
        return [found for series in archive.series_of("CT") if "Report" in (found := archive.metadata(series))]

    (found,) = poll(scores, 120, "the score is on the series")
    (row,) = Registry(database).list_series()
    report = Outbox(database).report(row.facts.series_instance_uid)
    assert (row.state, found["Report"]) == (SeriesState.DELIVERED, report.sop_instance_uid)
    with database.read() as connection:
        score, grade = connection.execute(sa.text("SELECT score, grade FROM results")).one()
    assert found["Score"] == ("not rated" if score is None else f"{score:.2f}")
    assert found["Grade"] == (grade or "not rated")
    # Sent once, the MR and the report not at all.
    jobs = [job for job in archive.ask("jobs?expand") if job["Type"] == "DicomModalityStore"]
    assert len(jobs) == 1
    assert len(archive.series_of("SR")) == 1
    assert "Report" not in archive.metadata(archive.series_of("MR")[0])
    text = (tmp_path / "orthanc.log").read_text()
    assert not any(name in (tmp_path / f"{role}.log").read_text() for role in ("orthanc", "deliver") for name in
                   ("Sample^Sally", "SAMPLE-7")), text[-500:]  # fmt: skip
    database.close()
