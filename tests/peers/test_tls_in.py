"""DICOM over TLS into the node, by DCMTK's tools: what is accepted, what is refused, and that this is harmless."""

from __future__ import annotations

import os
import socket
import ssl
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, build_role, evt

from dicom_qa_node.config import Config, load_config
from dicom_qa_node.db.engine import Database
from tests.query_samples import CASES, fill, identifier, images_of
from tests.tls_files import Authority, Pair

pytestmark = [pytest.mark.peers("storescu", "echoscu", "findscu", "storescp"), pytest.mark.integration]

STUDY_MOVE, STUDY_GET = "1.2.840.10008.5.1.4.1.2.2.2", "1.2.840.10008.5.1.4.1.2.2.3"


@dataclass
class Node:
    """A running receive role with its ports, its log, and a certificate that it accepts."""

    config: Config
    log: Path
    hospital: Authority
    scanner: Pair
    run_tool: Callable[..., Any]

    @property
    def port(self) -> int:
        return self.config.receive.tls.port

    def said(self, *parts: str) -> bool:
        """Return whether one log line holds every part."""
        return any(all(part in line for part in parts) for line in self.log.read_text().splitlines())

    def call(self, tool: str, *arguments: object, show: Pair | None = None, trust: Path | None = None) -> Any:
        """Run a DCMTK tool over TLS against the node."""
        key, certificate = (show or self.scanner).for_dcmtk()
        head = ["+tls", key, certificate, "+cf", trust or self.hospital.ca]
        return self.run_tool(tool, *head, "-aec", "DICOMQA", "127.0.0.1", self.port, *arguments)

    def echoes(self, **how: Any) -> bool:
        return bool(self.call("echoscu", **how).returncode == 0)


@pytest.fixture
def start_node(
    tmp_path: Path, free_port: Any, background: Any, poll: Any, listening: Any, run_tool: Any
) -> Callable[..., Node]:
    def start(
        *,
        tls: dict[str, Any] | None = None,
        cases: int = 0,
        cas: Path | None = None,
        mover_port: int = 104,
        **receive: Any,
    ) -> Node:
        hospital = Authority(tmp_path / "hospital")
        own = hospital.issue("node")
        if cas is not None:
            (tmp_path / "both.pem").write_bytes(hospital.ca.read_bytes() + cas.read_bytes())
        secure = {
            "enabled": True, "port": free_port(), "certificate": str(own.certificate), "key": str(own.key),
            "ca": str(hospital.ca),
        }  # fmt: skip
        values = {
            "database_url": f"sqlite:///{tmp_path}/q.db",
            "spool_dir": str(tmp_path / "spool"),
            "receive": {
                "host": "127.0.0.1", "port": free_port(), "processes": 1, "acse_timeout_s": 3.0,
                "tls": {**secure, **(tls or {})}, **receive,
            },
            "spool": {"min_free_mb": 1, "resume_free_mb": 1},
            "query": {"images": True, "destinations": [{
                "ae_title": "MOVER", "host": "localhost", "port": mover_port,
                "tls": {"enabled": True, "ca": str(hospital.ca), "certificate": str(own.certificate),
                        "key": str(own.key)},
            }]},
        }  # fmt: skip
        path, log = tmp_path / "config.yaml", tmp_path / "node.log"
        path.write_text(yaml.safe_dump(values))
        config = load_config(path)
        database = Database(config.database_url)
        database.upgrade()
        fill(config, database, CASES[:cases])
        database.close()
        background([sys.executable, "-m", "dicom_qa_node", "--config", path, "receive"], log)
        poll(lambda: listening(config.receive.tls.port), 60, "the TLS port")
        return Node(config, log, hospital, hospital.issue("scanner"), run_tool)

    return start


def keys(*pairs: str) -> list[str]:
    return [word for pair in pairs for word in ("-k", pair)]


def as_files(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number}.dcm" for number in range(count)]
    for path, image in zip(paths, images_of(CASES[1], count), strict=True):
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.save_as(path, enforce_file_format=True)
    return paths


def test_every_service_works_over_tls(start_node: Any, tmp_path: Path, poll: Any) -> None:
    node = start_node(cases=1)
    assert node.echoes()
    images = as_files(tmp_path / "images", 5)
    assert node.call("storescu", *images).returncode == 0
    stored = lambda: list((node.config.spool_dir / "instances").rglob("*.dcm"))  # noqa: E731
    # Those of the sample case are eight.
    poll(lambda: len(stored()) == 13)
    sent = {str(dcmread(path).SOPInstanceUID): dcmread(path).PixelData for path in images}
    kept = {str(ds.SOPInstanceUID): ds.PixelData for ds in map(dcmread, stored())}
    assert sent.items() <= kept.items()
    (tmp_path / "found").mkdir()
    asked = keys("QueryRetrieveLevel=STUDY", "PatientName=adams*", "StudyInstanceUID")
    done = node.call("findscu", "-S", "-X", "-od", tmp_path / "found", *asked)
    assert done.returncode == 0
    answers = [dcmread(path, force=True) for path in (tmp_path / "found").iterdir()]
    assert CASES[0].study_uid in {str(answer.StudyInstanceUID) for answer in answers}


def test_sub_operations_go_over_tls(
    start_node: Any, tmp_path: Path, free_port: Any, background: Any, poll: Any, listening: Any
) -> None:
    back, got = free_port(), tmp_path / "got"
    got.mkdir()
    node = start_node(cases=1, mover_port=back)
    key, certificate = node.hospital.issue("mover").for_dcmtk()
    background(["storescp", "+tls", key, certificate, "+cf", node.hospital.ca, "+B", "-od", got, back])
    poll(lambda: listening(back), 20)
    study = identifier("STUDY", StudyInstanceUID=CASES[0].study_uid)
    context = ssl.create_default_context(cafile=node.hospital.ca)
    context.load_cert_chain(node.scanner.certificate, node.scanner.key)
    ae = AE("MOVER")
    for sop_class in (STUDY_MOVE, STUDY_GET, CTImageStorage):
        ae.add_requested_context(sop_class)
    brought: list[Any] = []
    assoc = ae.associate(
        "127.0.0.1", node.port, tls_args=(context, "localhost"), ext_neg=[build_role(CTImageStorage, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, lambda event: brought.append(event.dataset) or 0)],
    )  # fmt: skip
    *_, (last, _) = assoc.send_c_move(study, "MOVER", STUDY_MOVE)
    assert (last.Status, last.NumberOfCompletedSuboperations) == (0, 9)
    assert len(list(got.iterdir())) == 9
    *_, (last, _) = assoc.send_c_get(study, STUDY_GET)
    assert last.NumberOfCompletedSuboperations == len(brought) == 8
    assoc.release()


def test_the_suites_and_versions_of_the_profiles_are_taken(start_node: Any) -> None:
    node = start_node()
    for profile in ("+py", "+px", "+pz"):
        assert node.call("echoscu", profile).returncode == 0
    assert node.echoes(show=node.hospital.issue("elliptic", elliptic=True))
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with handshake(node, version) as connection:
            assert connection.version() == version.name.replace("_", ".")
            assert "GCM" in connection.cipher()[0] or "CHACHA20" in connection.cipher()[0]


def handshake(
    node: Node, version: ssl.TLSVersion, *, ciphers: str = "ALL:@SECLEVEL=0", show: Pair | None = None
) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    context.set_ciphers(ciphers)
    context.load_verify_locations(node.hospital.ca)
    pair = show or node.scanner
    context.load_cert_chain(pair.certificate, pair.key)
    with socket.create_connection(("127.0.0.1", node.port), 10) as connection:
        return context.wrap_socket(connection, server_hostname="localhost")


def test_what_is_no_good_is_refused_with_words(start_node: Any, tmp_path: Path, poll: Any) -> None:
    node = start_node()
    stranger = Authority(tmp_path / "stranger", "Other CA")
    refused = {
        "unable to get local issuer certificate": stranger.issue("intruder"),
        "certificate has expired": node.hospital.issue("expired", starts_days=-30, ends_days=-1),
        "certificate is not yet valid": node.hospital.issue("early", starts_days=5),
    }
    for words, pair in refused.items():
        assert not node.echoes(show=pair)
        poll(lambda words=words: node.said("tls_refused", "certificate is not accepted", words), 10, words)
    assert not node.echoes(trust=stranger.ca)
    poll(lambda: node.said("tls_refused", "refuses TLS with this node", "unknown ca"), 10)
    assert node.run_tool("echoscu", "-aec", "DICOMQA", "-ta", 5, "127.0.0.1", node.port).returncode != 0
    poll(lambda: node.said("tls_refused", "does not use TLS"), 10)
    key, certificate = node.scanner.for_dcmtk()
    done = node.run_tool(
        "echoscu", "+tls", key, certificate, "+cf", node.hospital.ca, "127.0.0.1", node.config.receive.port
    )  # fmt: skip
    assert done.returncode != 0
    poll(lambda: node.said("malformed", "TLS on the port without TLS"), 10)
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        with pytest.raises(OSError):
            handshake(node, version)
    poll(lambda: node.said("tls_refused", "no TLS version from 1.2 on"), 10)
    with pytest.raises(OSError):
        handshake(node, ssl.TLSVersion.TLSv1_2, ciphers="AES128-SHA:@SECLEVEL=0")
    poll(lambda: node.said("tls_refused", "no cipher suite that is allowed here"), 10)
    assert node.echoes()
    assert node.run_tool("echoscu", "127.0.0.1", node.config.receive.port).returncode == 0
    assert "Traceback" not in node.log.read_text()


def test_a_peer_without_certificate_is_refused_unless_that_is_allowed(start_node: Any, poll: Any) -> None:
    node = start_node()
    done = node.run_tool("echoscu", "+tla", "+cf", node.hospital.ca, "-aec", "DICOMQA", "127.0.0.1", node.port)
    assert done.returncode != 0
    poll(lambda: node.said("tls_refused", "shows no certificate"), 10)
    assert node.echoes()


def test_certificates_of_peers_need_not_be_asked_for(start_node: Any) -> None:
    node = start_node(tls={"require_certificate": False})
    done = node.run_tool("echoscu", "+tla", "+cf", node.hospital.ca, "-aec", "DICOMQA", "127.0.0.1", node.port)
    assert done.returncode == 0


def test_a_silent_client_holds_nobody_up_and_is_dropped(start_node: Any) -> None:
    node = start_node()
    silent = [socket.create_connection(("127.0.0.1", node.port), 20) for _ in range(5)]
    assert node.echoes()
    for connection in silent:
        with connection:
            assert connection.recv(100) == b""
    assert node.said("refused_caller", "no association request within")


def test_the_plain_port_can_be_left_closed(start_node: Any, listening: Any) -> None:
    node = start_node(tls={"only": True})
    assert node.echoes()
    assert not listening(node.config.receive.port)


def test_titles_and_hosts_are_checked_over_tls_too(start_node: Any) -> None:
    node = start_node(
        peers=[{"ae_title": "CT1", "hosts": ["127.0.0.1"]}, {"ae_title": "CT2", "hosts": ["10.1.0.0/16"]}],
        allow_unknown_peers=False, require_called_ae=True,
    )  # fmt: skip
    assert node.call("echoscu", "-aet", "CT1").returncode == 0
    for title in ("CT2", "STRANGER"):
        assert "Calling AE Title Not Recognized" in _said(node.call("echoscu", "-aet", title))
    assert "Called AE Title Not Recognized" in _said(node.call("echoscu", "-aet", "CT1", "-aec", "WRONG"))


def test_a_peer_can_be_bound_to_its_certificate(start_node: Any, tmp_path: Path) -> None:
    ct1 = Authority(tmp_path / "maker", "Maker CA").issue("ct1")
    shown = ":".join(ct1.fingerprint.upper()[at : at + 2] for at in range(0, 64, 2))
    node = start_node(
        tls={"ca": str(tmp_path / "both.pem")}, cas=tmp_path / "maker" / "ca.pem",
        peers=[{"ae_title": "CT1", "certificate_sha256": shown}],
    )  # fmt: skip
    assert node.call("echoscu", "-aet", "CT1", show=ct1).returncode == 0
    assert node.call("echoscu", "-aet", "OTHER").returncode == 0
    assert "Calling AE Title Not Recognized" in _said(node.call("echoscu", "-aet", "CT1"))
    plain = node.run_tool("echoscu", "-aet", "CT1", "127.0.0.1", node.config.receive.port)
    assert "Calling AE Title Not Recognized" in _said(plain)
    assert node.said("rejected", "CT1", "with the certificate it must")


def _said(done: Any) -> str:
    return str(done.stdout + done.stderr)


def test_certificates_are_renewed_while_running(start_node: Any, poll: Any, tmp_path: Path) -> None:
    node = start_node()
    first = serial(node)
    next_pair = node.hospital.issue("next")
    os.replace(next_pair.key, node.config.receive.tls.key)
    # For a moment key and certificate do not belong together.
    poll(lambda: serial(node) == first and node.said("certificate_not_renewed", "is not that of certificate"), 20)
    os.replace(next_pair.certificate, node.config.receive.tls.certificate)
    poll(lambda: serial(node) != first, 20, "the new certificate")
    second = serial(node)
    node.config.receive.tls.certificate.write_text("not a certificate")
    poll(lambda: serial(node) == second and node.said("certificate_not_renewed", "PEM form"), 20)
    assert node.echoes()


def test_revoked_certificates_are_refused_from_the_next_connection_on(
    start_node: Any, poll: Any, tmp_path: Path
) -> None:
    lists = tmp_path / "lists.pem"

    def publish(*pems: bytes) -> None:
        (tmp_path / "new.pem").write_bytes(b"".join(pems))
        os.replace(tmp_path / "new.pem", lists)

    stranger = Authority(tmp_path / "stranger", "Other CA")
    publish(stranger.revoke())
    node = start_node(tls={"crl": str(lists)})
    assert not node.echoes(), "without a list of its CA nothing is known about a certificate"
    poll(lambda: node.said("tls_refused", "unable to get certificate CRL"), 10)
    lost, kept = node.hospital.issue("lost"), node.hospital.issue("kept")
    publish(stranger.revoke(), node.hospital.revoke())
    poll(lambda: node.echoes(show=lost), 20, "the list without entries is in force")
    publish(stranger.revoke(), node.hospital.revoke(lost))
    poll(lambda: not node.echoes(show=lost), 20, "the revocation is in force")
    poll(lambda: node.said("tls_refused", "certificate revoked"), 10)
    assert node.echoes(show=kept)
    publish(node.hospital.revoke(ends_days=-1))
    poll(lambda: not node.echoes(show=kept), 20, "an old list lets nobody in")
    poll(lambda: node.said("tls_refused", "CRL has expired"), 10)


def serial(node: Node) -> str:
    with handshake(node, ssl.TLSVersion.TLSv1_3) as connection:
        return str(connection.getpeercert()["serialNumber"])


def test_limits_hold_over_both_ports(start_node: Any) -> None:
    node = start_node(max_associations=1)
    plain = AE("HOLDER")
    plain.add_requested_context("1.2.840.10008.1.1")
    assoc = plain.associate("127.0.0.1", node.config.receive.port)
    assert assoc.is_established
    assert "Local Limit Exceeded" in _said(node.call("echoscu"))
    assoc.release()
    assert node.echoes()
