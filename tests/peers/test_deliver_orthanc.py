"""Reports reach real archives, Orthanc and DCMTK: once each, through outages, refusals and a killed delivery worker."""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom import dcmread

from dicom_qa_node.config import Config, load_config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.deliver.echo import echo_target
from dicom_qa_node.deliver.send_files import Peer, files_below, send_files
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.report.report_builder import report_pending
from tests.report_samples import verdict, write_series

pytestmark = [pytest.mark.peers("Orthanc", "storescp", "dcmdump"), pytest.mark.integration]

#: The role's second half by itself; "kill" ends the process after the target's Success and before it is recorded.
COURIER = """
import os, signal, sys, threading
from pathlib import Path
from dicom_qa_node.config import load_config
from dicom_qa_node.deliver.delivery_worker import run_delivery_worker
from dicom_qa_node.db.engine import Database; from dicom_qa_node.flow.outbox import Outbox
config = load_config(Path(sys.argv[1]))
if sys.argv[2] == "kill":
    Outbox.delivered = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
run_delivery_worker(config, Database(config.database_url), stop)
"""

Orthanc = tuple[int, Callable[[str], Any]]


@pytest.fixture
def orthanc(tmp_path, free_port, background, poll) -> Orthanc:
    """Start an empty Orthanc and return its DICOM port and a function that asks its REST interface."""
    dicom, http = free_port(), free_port()
    (tmp_path / "orthanc").mkdir()
    settings = {
        "Name": "archive",
        "StorageDirectory": str(tmp_path / "orthanc"),
        "IndexDirectory": str(tmp_path / "orthanc"),
        "DicomAet": "ORTHANC",
        "DicomPort": dicom,
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [],
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    background(["Orthanc", tmp_path / "orthanc.json"])

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{http}/{path}", timeout=10) as answer:
            return json.load(answer)

    def up() -> bool:
        try:
            return bool(ask("system"))
        except OSError:
            return False

    poll(up, 30, "Orthanc answers")
    return dicom, ask


@pytest.fixture
def database(tmp_path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    yield database
    database.close()


def write_config(tmp_path: Path, *targets: dict[str, Any]) -> Config:
    values = {
        "database_url": f"sqlite:///{tmp_path}/q.db",
        "spool_dir": str(tmp_path / "spool"),
        "deliver": {"targets": list(targets), "retry_first_s": 0.2, "retry_max_s": 0.5, "lease_s": 5.0},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    return load_config(tmp_path / "config.yaml")


def dicom_target(port: int, ae_title: str = "ORTHANC", name: str = "pacs") -> dict[str, Any]:
    return {"kind": "dicom", "name": name, "host": "127.0.0.1", "port": port, "ae_title": ae_title, "timeout_s": 5.0}


def delivery_worker(tmp_path: Path, mode: str = "run") -> list[object]:
    return [sys.executable, "-c", COURIER, tmp_path / "config.yaml", mode]


def report_series(database: Database, config: Config, number: int = 1, **changes: object) -> str:
    """Bring a series to REPORTED and return its UID."""
    instances = write_series(config.spool_dir, number, **changes)
    registry, jobs = Registry(database), Jobs(database)
    registry.record(instances)
    (progress,) = registry.receiving()
    registry.complete(progress, reason="count")
    jobs.finish(jobs.claim("w"), verdict(instances))
    assert report_pending(Outbox(database), registry, config.spool_dir, config) == 1
    return instances[0].series.series_instance_uid


def in_state(database: Database, uid: str, state: SeriesState) -> Callable[[], bool]:
    return lambda: Registry(database).series(uid).state is state


def test_report_lies_in_the_archive_beside_its_images(tmp_path, database, orthanc, background, poll):
    port, ask = orthanc
    config = write_config(tmp_path, dicom_target(port))
    assert str(echo_target(config, "pacs")) == "0x0000 Success"
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    uid = report_series(database, config, SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=name)
    peer = Peer("127.0.0.1", port, "ORTHANC", "NODE", 10)
    assert send_files(files_below([config.spool_dir / "instances"]), peer).sent == 9
    process = background(delivery_worker(tmp_path))
    poll(in_state(database, uid, SeriesState.DELIVERED), 30)
    (patient,) = ask("patients?expand")
    assert patient["MainDicomTags"] == {
        "PatientID": "SAMPLE-7", "PatientName": name, "PatientSex": "F", "PatientBirthDate": "19500102"
    }  # fmt: skip
    (study,) = ask("studies?expand")
    assert study["MainDicomTags"]["AccessionNumber"] == "ACC-12"
    modalities = sorted(series["MainDicomTags"]["Modality"] for series in ask("series?expand"))
    assert modalities == ["CT", "SR"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_outage_loses_nothing(tmp_path, database, free_port, background, poll):
    port, received = free_port(), tmp_path / "received"
    received.mkdir()
    config = write_config(tmp_path, dicom_target(port, "STORESCP"), {"kind": "folder", "name": "shelf",
                                                                     "path": str(tmp_path / "shelf")})  # fmt: skip
    uids = [report_series(database, config, number) for number in (1, 2, 3)]
    background(delivery_worker(tmp_path))

    def deferred() -> bool:
        rows = [row for uid in uids for row in Outbox(database).deliveries_of(uid) if row.target == "pacs"]
        return all(row.attempts >= 2 and "no connection" in row.last_answer for row in rows)

    poll(deferred, 30)
    assert len(list((tmp_path / "shelf").glob("*.dcm"))) == 3
    background(["storescp", "-aet", "STORESCP", "-od", received, port])
    for uid in uids:
        poll(in_state(database, uid, SeriesState.DELIVERED), 30)
    arrived = sorted(dcmread(path).SOPInstanceUID for path in received.iterdir())
    assert arrived == sorted(Outbox(database).report(uid).sop_instance_uid for uid in uids)


def test_archive_that_takes_no_reports_parks_the_series_with_words(tmp_path, database, free_port, background, poll):
    port = free_port()
    profile = tmp_path / "ct-only.cfg"
    profile.write_text(CT_ONLY)
    background(["storescp", "-aet", "STORESCP", "-od", tmp_path, "-xf", profile, "CtOnly", port])
    config = write_config(tmp_path, dicom_target(port, "STORESCP"))
    uid = report_series(database, config)
    background(delivery_worker(tmp_path))
    poll(in_state(database, uid, SeriesState.PARKED), 30)
    reason = Registry(database).series(uid).parked_reason
    assert reason == (
        "report not delivered to pacs: the target does not accept "
        "Comprehensive 3D SR Storage, Comprehensive SR Storage, Enhanced SR Storage"
    )


def test_courier_killed_after_success_delivers_once(tmp_path, database, orthanc, background, poll):
    port, ask = orthanc
    config = write_config(tmp_path, dicom_target(port))
    uid = report_series(database, config)
    killed = background(delivery_worker(tmp_path, "kill"))
    assert killed.wait(30) == -signal.SIGKILL
    assert len(ask("instances")) == 1
    (row,) = Outbox(database).deliveries_of(uid)
    assert row.state is DeliveryState.SENDING
    background(delivery_worker(tmp_path))
    poll(in_state(database, uid, SeriesState.DELIVERED), 30)
    (row,) = Outbox(database).deliveries_of(uid)
    assert row.attempts == 2
    (instance,) = ask("instances?expand")
    assert instance["MainDicomTags"]["SOPInstanceUID"] == row.report.sop_instance_uid
    assert os.listdir(config.spool_dir / "reports")


CT_ONLY = """
[[TransferSyntaxes]]
[Uncompressed]
TransferSyntax1 = LocalEndianExplicit
TransferSyntax2 = LittleEndianImplicit

[[PresentationContexts]]
[CtStorage]
PresentationContext1 = CTImageStorage\\Uncompressed

[[Profiles]]
[CtOnly]
PresentationContexts = CtStorage
"""
