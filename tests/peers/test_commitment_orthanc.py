"""Storage commitment with Orthanc in both directions: it asks the node, and the node asks it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.deliver.commitment_results import CommitmentResultSender
from dicom_qa_node.deliver.delivery_worker import run_delivery_worker
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.flow.commitments import CommitReplies, CommitRequests
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.receive.commitment_scp import CommitmentService
from dicom_qa_node.spool.layout import SpoolLayout
from tests.peers.orthanc_peer import OrthancPeer, start_orthanc
from tests.query_samples import CASES, fill, images_of, keep, serving

pytestmark = [pytest.mark.peers("Orthanc"), pytest.mark.integration]

Node = tuple[Config, Database, OrthancPeer]


@pytest.fixture
def node(tmp_path: Path, free_port: Any, background: Any, poll: Any) -> Iterator[Node]:
    """A receiver with storage commitment, and an Orthanc; each knows the other."""
    values: dict[str, Any] = {"database_url": f"sqlite:///{tmp_path}/q.db", "spool_dir": tmp_path / "spool"}
    database = Database(values["database_url"])
    database.upgrade()
    first = Config.model_validate(values)
    service = CommitmentService(SpoolLayout(first.spool_dir), CommitReplies(database), CommitRequests(database))
    with serving(first, database, service) as port:
        orthanc = start_orthanc(tmp_path, free_port, background, poll, port)
        target = {
            "kind": "dicom", "name": "pacs", "host": "127.0.0.1", "port": orthanc.dicom_port,
            "ae_title": "ORTHANC", "timeout_s": 10.0, "require_commitment": True,
        }  # fmt: skip
        deliver = {"targets": [target], "retry_first_s": 0.3, "retry_max_s": 1.0}
        peers = [{"ae_title": "ORTHANC", "port": orthanc.dicom_port}]
        yield (
            Config.model_validate(values | {"deliver": deliver, "receive": {"peers": peers}}),
            database,
            orthanc,
        )
    database.close()


def test_orthanc_learns_what_the_node_holds(node: Node, poll: Any) -> None:
    config, database, orthanc = node
    held = keep(config.spool_dir, images_of(CASES[0])[0])
    replies = CommitReplies(database)
    sender = CommitmentResultSender(config, replies)
    sender.start()
    transaction = orthanc.ask(
        "modalities/node/storage-commitment",
        {
            "DicomInstances": [
                [held.sop_class_uid, held.sop_instance_uid],
                [held.sop_class_uid, generate_uid()],
                ["1.2.840.10008.5.1.4.1.1.4", held.sop_instance_uid],
            ]
        },
    )
    report = _report(orthanc, transaction["ID"], poll)
    sender.end()
    assert report["Status"] == "Failure"
    assert [item["SOPInstanceUID"] for item in report["Success"]] == [held.sop_instance_uid]
    assert sorted(item["FailureReason"] for item in report["Failures"]) == [0x0112, 0x0119]


def test_orthanc_sends_and_has_it_committed(node: Node, poll: Any) -> None:
    config, database, orthanc = node
    sender = CommitmentResultSender(config, CommitReplies(database))
    sender.start()
    image = keep(config.spool_dir / "other", images_of(CASES[1])[0])
    orthanc.ask("instances", (config.spool_dir / "other" / image.path).read_bytes())
    (study,) = orthanc.ask("studies")
    job = orthanc.ask("modalities/node/store", {"Resources": [study], "StorageCommitment": True, "Asynchronous": False})
    transaction = job["StorageCommitmentTransactionUID"]
    report = _report(orthanc, transaction, poll)
    sender.end()
    assert report["Status"] == "Success"
    assert (config.spool_dir / image.path).is_file()
    assert [item["SOPInstanceUID"] for item in report["Success"]] == [image.sop_instance_uid]


def test_report_counts_when_orthanc_has_committed(node: Node, poll: Any) -> None:
    config, database, orthanc = node
    fill(config, database, CASES[:1])
    uid = CASES[0].series_uid
    stop = threading.Event()
    delivery_worker = threading.Thread(target=run_delivery_worker, args=(config, database, stop, 5.0))
    delivery_worker.start()
    try:
        poll(lambda: Registry(database).series(uid).state is SeriesState.DELIVERED, 40, "delivered")
    finally:
        stop.set()
        delivery_worker.join(20)
    (row,) = Outbox(database).deliveries_of(uid)
    assert row.state is DeliveryState.DELIVERED
    assert row.last_answer == "0x0000 Success, storage committed"
    assert row.attempts >= 1
    (instance,) = orthanc.ask("instances?expand")
    assert instance["MainDicomTags"]["SOPInstanceUID"] == row.report.sop_instance_uid
    assert dcmread(config.spool_dir / row.report.path).SOPInstanceUID == row.report.sop_instance_uid


def _report(orthanc: OrthancPeer, transaction: str, poll: Any) -> Any:
    def answered() -> Any:
        report = orthanc.ask(f"storage-commitment/{transaction}")
        return report if report["Status"] != "Pending" else None

    return poll(answered, 40, "Orthanc has its answer")
