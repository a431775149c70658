"""Real peers that do not take Comprehensive 3D SR, that want reports back, or that speak DICOMweb."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pynetdicom import AE, evt

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.deliver.delivery_worker import run_delivery_worker
from dicom_qa_node.deliver.echo import echo_target
from dicom_qa_node.deliver.targets.base import CLASSES
from dicom_qa_node.domain.series import AssociationStart
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.report.report_builder import report_pending
from dicom_qa_node.report.sop_class_conversion import as_form, form_uid
from tests.report_samples import T0, verdict, write_series

PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"

pytestmark = pytest.mark.integration

OLD_ARCHIVE = """
[[TransferSyntaxes]]
[Uncompressed]
TransferSyntax1 = LocalEndianExplicit
TransferSyntax2 = LittleEndianImplicit

[[PresentationContexts]]
[Enhanced]
PresentationContext1 = EnhancedSRStorage\\Uncompressed
PresentationContext2 = VerificationSOPClass\\Uncompressed

[[Profiles]]
[Old]
PresentationContexts = Enhanced
"""


@pytest.fixture
def database(tmp_path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    yield database
    database.close()


def config_of(tmp_path: Path, *targets: dict[str, Any], **receive: Any) -> Config:
    deliver = {"targets": list(targets), "retry_first_s": 0.2, "retry_max_s": 0.5}
    return Config.model_validate({"spool_dir": tmp_path / "spool", "deliver": deliver, "receive": receive})


def report(database: Database, config: Config, number: int = 1) -> str:
    """Bring a series to REPORTED, its images sent by SCANNER from this machine."""
    registry, jobs = Registry(database), Jobs(database)
    instances = write_series(config.spool_dir, number)
    registry.record([AssociationStart("a1", "SCANNER", "127.0.0.1", "r", T0), *instances])
    for progress in registry.receiving():
        registry.complete(progress, reason="count")
    jobs.finish(jobs.claim("w"), verdict(instances))
    assert report_pending(Outbox(database), registry, config.spool_dir, config) == 1
    return instances[0].series.series_instance_uid


def deliver(database: Database, config: Config, uid: str, poll: Callable[..., Any]) -> str:
    """Run the delivery worker until the series is delivered and return the target's answer."""
    stop = threading.Event()
    forms = {"convert": lambda ref, sop_class: as_form(config.spool_dir, ref, sop_class)}
    delivery_worker = threading.Thread(target=run_delivery_worker, args=(config, database, stop), kwargs=forms)
    delivery_worker.start()
    try:
        poll(lambda: Registry(database).series(uid).state is SeriesState.DELIVERED, 60)
    finally:
        stop.set()
        delivery_worker.join(30)
    (row,) = Outbox(database).deliveries_of(uid)
    return row.last_answer


@pytest.mark.peers("storescp", "dciodvfy")
def test_archive_that_takes_only_enhanced_sr_gets_one(tmp_path, database, free_port, background, poll, run_tool):
    port, received = free_port(), tmp_path / "received"
    received.mkdir()
    (tmp_path / "old.cfg").write_text(OLD_ARCHIVE)
    background(["storescp", "-aet", "OLD", "-od", received, "-xf", tmp_path / "old.cfg", "Old", port])
    config = config_of(tmp_path, {"kind": "dicom", "name": "old", "host": "127.0.0.1", "port": port, "ae_title": "OLD"})
    uid = report(database, config)
    assert deliver(database, config, uid, poll) == "0x0000 Success, as Enhanced SR"
    (file,) = received.iterdir()
    (row,) = Outbox(database).deliveries_of(uid)
    assert dcmread(file).SOPClassUID == CLASSES["enhanced"]
    assert (
        str(dcmread(file).SOPInstanceUID) == row.sent_uid == form_uid(row.report.sop_instance_uid, CLASSES["enhanced"])
    )
    done = run_tool("dciodvfy", file)
    assert "EnhancedSR" in (done.stdout + done.stderr).splitlines()


@pytest.mark.peers("storescp")
def test_report_goes_back_to_the_scanner_that_sent_the_images(tmp_path, database, free_port, background, poll):
    port, received = free_port(), tmp_path / "received"
    received.mkdir()
    background(["storescp", "-aet", "SCANNER", "-od", received, port])
    peers = [{"ae_title": "SCANNER", "hosts": ["127.0.0.1"], "port": port}]
    config = config_of(tmp_path, {"kind": "sender", "name": "back"}, peers=peers)
    uid = report(database, config)
    assert deliver(database, config, uid, poll) == "0x0000 Success"
    assert len(list(received.iterdir())) == 1
    assert str(echo_target(config, "back")) == "0x0000 Success from SCANNER"


def test_archive_that_fails_once_gets_every_version_in_order_and_other_series_meanwhile(
    tmp_path, database, free_port, poll
):
    received: list[tuple[str, int]] = []
    refused: list[str] = []

    def store(event: evt.Event) -> int:
        dataset = event.dataset
        if dataset.InstanceNumber == 1 and "series 1" in dataset.SeriesDescription and not refused:
            refused.append(dataset.SOPInstanceUID)
            return 0xA700
        received.append((str(dataset.SeriesDescription), int(dataset.InstanceNumber)))
        return 0x0000

    ae, port = AE("PACS"), free_port()
    ae.add_supported_context(CLASSES["comprehensive3d"])
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    pacs = {"kind": "dicom", "name": "pacs", "host": "127.0.0.1", "port": port, "ae_title": "PACS", "timeout_s": 5.0}
    config = config_of(tmp_path, pacs)
    uids = [report(database, config, number) for number in (1, 2)]
    registry, jobs, outbox = Registry(database), Jobs(database), Outbox(database)
    assert registry.rescore(uids[0], actor="admin")
    jobs.finish(jobs.claim("w"), verdict(registry.instances(uids[0])))
    assert report_pending(outbox, registry, config.spool_dir, config) == 1
    stop = threading.Event()
    delivery_worker = threading.Thread(target=run_delivery_worker, args=(config, database, stop))
    delivery_worker.start()
    try:
        poll(lambda: len(received) == 3, 30)
    finally:
        stop.set()
        delivery_worker.join(30)
        server.shutdown()
    assert len(refused) == 1
    assert received == [
        ("Image quality of series 2", 1), ("Image quality of series 1", 1), ("Image quality of series 1", 2)
    ]  # fmt: skip


@pytest.mark.peers("Orthanc", PLUGIN)
def test_orthanc_stores_reports_over_dicomweb(tmp_path, database, free_port, background, poll):
    http = free_port()
    (tmp_path / "orthanc").mkdir()
    settings = {
        "StorageDirectory": str(tmp_path / "orthanc"), "IndexDirectory": str(tmp_path / "orthanc"),
        "DicomPort": free_port(), "HttpPort": http, "RemoteAccessAllowed": False, "Plugins": [PLUGIN],
        "AuthenticationEnabled": True, "RegisteredUsers": {"node": "open sesame"},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }  # fmt: skip
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    (tmp_path / "password").write_text("open sesame")
    (tmp_path / "wrong").write_text("wrong")
    background(["Orthanc", tmp_path / "orthanc.json"])
    web = {"kind": "dicomweb", "name": "web", "url": f"http://127.0.0.1:{http}/dicom-web", "user": "node"}
    config = config_of(tmp_path, web | {"password_file": tmp_path / "password"})

    def up() -> bool:
        try:
            return str(echo_target(config, "web")) == "HTTP 200"
        except Exception:
            return False

    poll(up, 60, "Orthanc's DICOMweb answers")
    uid = report(database, config)
    assert deliver(database, config, uid, poll) == "HTTP 200, stored"
    reference = Outbox(database).report(uid)
    opener = urllib.request.build_opener(_basic(f"http://127.0.0.1:{http}/", "node", "open sesame"))
    with opener.open(f"http://127.0.0.1:{http}/instances?expand", timeout=10) as answer:
        (instance,) = json.load(answer)
    assert instance["MainDicomTags"]["SOPInstanceUID"] == reference.sop_instance_uid
    denied = config_of(tmp_path, web | {"password_file": tmp_path / "wrong"})
    with pytest.raises(Exception, match="HTTP 401: the server wants other credentials"):
        echo_target(denied, "web")


def _basic(url: str, user: str, password: str) -> urllib.request.HTTPBasicAuthHandler:
    known = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    known.add_password(None, url, user, password)
    return urllib.request.HTTPBasicAuthHandler(known)
