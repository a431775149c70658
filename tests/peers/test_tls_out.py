"""The node calls DCMTK and Orthanc over TLS, and says clearly why it does not trust a peer."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_qa_node.config import ClientTls, Config, DicomTarget, ServerTls
from dicom_qa_node.db.engine import Database
from dicom_qa_node.deliver.commitment_results import CommitmentResultSender
from dicom_qa_node.deliver.delivery_worker import run_delivery_worker
from dicom_qa_node.deliver.targets import open_target
from dicom_qa_node.deliver.targets.base import Deferred
from dicom_qa_node.dicom_io.tls import RenewedContext
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.flow.commitments import CommitReplies, CommitRequests
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.receive.commitment_scp import CommitmentService
from dicom_qa_node.spool.layout import SpoolLayout
from tests.peers.orthanc_peer import start_orthanc
from tests.query_samples import CASES, fill, images_of, keep, serving
from tests.tls_files import Authority, Pair

pytestmark = [pytest.mark.peers("Orthanc", "storescp"), pytest.mark.integration]


@pytest.fixture
def hospital(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "hospital")


@pytest.fixture
def start_pacs(tmp_path: Path, hospital: Authority, free_port: Any, background: Any, poll: Any, listening: Any) -> Any:
    """Return ``start(pair, *arguments)``: a storescp over TLS; its port."""

    def start(pair: Pair, *arguments: object) -> int:
        port = free_port()
        folder = tmp_path / f"pacs{port}"
        folder.mkdir()
        key, certificate = pair.for_dcmtk()
        background(["storescp", "+tls", key, certificate, "+cf", hospital.ca, *arguments, "-od", folder, port])
        poll(lambda: listening(port), 20)
        return int(port)

    return start


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    yield database
    database.close()


def tls_of(hospital: Authority, own: Pair | None, **changes: Any) -> ClientTls:
    values = {"enabled": True, "ca": hospital.ca} | changes
    if own is not None:
        values |= {"certificate": own.certificate, "key": own.key}
    return ClientTls.model_validate(values)


def target(port: int, tls: ClientTls, **more: Any) -> DicomTarget:
    place = {"name": "pacs", "host": "localhost", "port": port, "ae_title": "STORESCP", "timeout_s": 5.0}
    return DicomTarget(**place, tls=tls, **more)


def answer(port: int, tls: ClientTls) -> str:
    """Return what a C-ECHO comes to."""
    try:
        return str(open_target(target(port, tls), "NODE", ()).check())
    except Deferred as error:
        return str(error)


def node(tmp_path: Path, *targets: DicomTarget, **receive: Any) -> Config:
    return Config.model_validate(
        {
            "database_url": f"sqlite:///{tmp_path}/q.db",
            "spool_dir": tmp_path / "spool",
            "deliver": {"retry_first_s": 0.2, "retry_max_s": 0.5, "targets": [item.model_dump() for item in targets]},
            "receive": receive,
        }
    )


def test_who_is_trusted_and_who_is_not(hospital: Authority, start_pacs: Any, tmp_path: Path, free_port: Any) -> None:
    own = hospital.issue("node")
    good = start_pacs(hospital.issue("pacs"))
    assert answer(good, tls_of(hospital, own)) == "0x0000 Success"
    stranger = Authority(tmp_path / "stranger", "Other CA")
    assert "the peer's certificate is not accepted: self-signed" in answer(good, tls_of(stranger, own))
    assert "no TLS with STORESCP" in answer(good, tls_of(hospital, None))
    assert "no TLS with STORESCP" in answer(good, tls_of(hospital, stranger.issue("node")))
    other_host = start_pacs(hospital.issue("other", hosts=["pacs.example"]))
    assert "Hostname mismatch" in answer(other_host, tls_of(hospital, own))
    assert answer(other_host, tls_of(hospital, own, check_host_name=False)) == "0x0000 Success"
    old = start_pacs(hospital.issue("old", starts_days=-9, ends_days=-1))
    assert "certificate has expired" in answer(old, tls_of(hospital, own))
    assert "cannot be read: No such file" in answer(good, tls_of(hospital, own, ca=tmp_path / "none.pem"))
    assert "no connection" in answer(free_port(), tls_of(hospital, own))


def test_a_target_with_a_revoked_certificate_gets_nothing(hospital: Authority, start_pacs: Any, tmp_path: Path) -> None:
    pacs, lists = hospital.issue("pacs"), tmp_path / "lists.pem"
    port, tls = start_pacs(pacs), tls_of(hospital, hospital.issue("node"), crl=lists)
    lists.write_bytes(hospital.revoke())
    assert answer(port, tls) == "0x0000 Success"
    lists.write_bytes(hospital.revoke(pacs))
    assert "the peer's certificate is not accepted: certificate revoked" in answer(port, tls)


def test_a_peer_without_tls_is_told_apart(
    hospital: Authority, free_port: Any, background: Any, poll: Any, listening: Any
) -> None:
    port = free_port()
    background(["storescp", "-aet", "STORESCP", port])
    poll(lambda: listening(port), 20)
    assert "no TLS with STORESCP" in answer(port, tls_of(hospital, None))


def test_a_report_waits_for_trust_and_then_goes(
    hospital: Authority, start_pacs: Any, database: Database, tmp_path: Path, poll: Any
) -> None:
    stranger = Authority(tmp_path / "stranger", "Other CA")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(stranger.ca.read_bytes())
    port = start_pacs(hospital.issue("pacs"))
    config = node(tmp_path, target(port, tls_of(hospital, hospital.issue("node"), ca=trusted)))
    fill(config, database, CASES[:1])
    outbox, uid = Outbox(database), CASES[0].series_uid
    stop = threading.Event()
    delivery_worker = threading.Thread(target=run_delivery_worker, args=(config, database, stop))
    delivery_worker.start()
    try:
        poll(lambda: "certificate is not accepted" in outbox.deliveries_of(uid)[0].last_answer, 30)
        assert outbox.deliveries_of(uid)[0].state is not DeliveryState.PARKED
        (tmp_path / "new.pem").write_bytes(hospital.ca.read_bytes())
        os.replace(tmp_path / "new.pem", trusted)
        poll(lambda: Registry(database).series(uid).state is SeriesState.DELIVERED, 30)
    finally:
        stop.set()
        delivery_worker.join(20)


def test_orthanc_over_tls_in_both_directions(
    hospital: Authority, database: Database, tmp_path: Path, free_port: Any, background: Any, poll: Any
) -> None:
    own, archive = hospital.issue("node"), hospital.issue("archive")
    server = ServerTls(enabled=True, certificate=own.certificate, key=own.key, ca=hospital.ca)
    replies = CommitReplies(database)
    service = CommitmentService(SpoolLayout(tmp_path / "spool"), replies, CommitRequests(database))
    with serving(node(tmp_path), database, service, tls=RenewedContext(server)) as port:
        orthanc = start_orthanc(
            tmp_path, free_port, background, poll, port,
            DicomTlsEnabled=True, DicomTlsCertificate=str(archive.certificate), DicomTlsPrivateKey=str(archive.key),
            DicomTlsTrustedCertificates=str(hospital.ca),
            DicomModalities={"node": {"AET": "DICOMQA", "Host": "localhost", "Port": port, "UseDicomTls": True}},
        )  # fmt: skip
        tls = tls_of(hospital, own)
        pacs = target(orthanc.dicom_port, tls, require_commitment=True)
        config = node(
            tmp_path, pacs, peers=[{"ae_title": "ORTHANC", "port": orthanc.dicom_port, "tls": tls.model_dump()}]
        )
        assert orthanc.ask("modalities/node/echo", {}) == {}
        held = keep(config.spool_dir, images_of(CASES[1])[0])
        sender = CommitmentResultSender(config, replies)
        sender.start()
        asked = {"DicomInstances": [[held.sop_class_uid, held.sop_instance_uid]]}
        transaction = orthanc.ask("modalities/node/storage-commitment", asked)["ID"]
        path = f"storage-commitment/{transaction}"
        poll(lambda: orthanc.ask(path)["Status"] == "Success", 30, "the commitment reaches Orthanc over TLS")
        sender.end()
        fill(config, database, CASES[:1])
        stop = threading.Event()
        delivery_worker = threading.Thread(target=run_delivery_worker, args=(config, database, stop))
        delivery_worker.start()
        delivered = lambda: Registry(database).series(CASES[0].series_uid).state is SeriesState.DELIVERED  # noqa: E731
        poll(delivered, 40, "a report is delivered and committed over TLS")
        stop.set()
        delivery_worker.join(20)
        assert len(orthanc.ask("instances")) == 1
