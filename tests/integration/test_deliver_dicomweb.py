"""What every answer of a STOW-RS service means, over real HTTP on loopback."""

from __future__ import annotations

import dataclasses
import json
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from dicom_qa_node.config import Config, DicomwebTarget
from dicom_qa_node.deliver.targets import open_target
from dicom_qa_node.deliver.targets.base import CLASSES, Deferred, Refused
from dicom_qa_node.domain.delivery import DocumentKind, ReportRef
from dicom_qa_node.report.report_builder import build_report
from dicom_qa_node.report.sop_class_conversion import as_form, form_uid
from dicom_qa_node.report.sr_document import SOP_CLASS_UID, ReportRequest, report_uid
from tests.report_samples import T0, shipped, verdict, write_series
from tests.stow_server import JSON, failed, serving, stored, willing

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> tuple[Path, ReportRef]:
    spool = tmp_path_factory.mktemp("spool")
    instances = write_series(spool, slices=2)
    result = verdict(instances, slices=(), findings=())
    path = spool / "report.dcm"
    path.write_bytes(build_report(ReportRequest(result, 1, T0), instances, spool, Config()))
    uid = report_uid(result.series_instance_uid, 1, result.model)
    return path, ReportRef(uid, SOP_CLASS_UID, "2.25.9", result.series_instance_uid, 1, "report.dcm", T0)


def shipment(report: tuple[Path, ReportRef]):
    spool = report[0].parent
    return shipped(*report, convert=lambda ref, sop_class: as_form(spool, ref, sop_class))


def target(url: str, **settings: object):
    values = {"name": "web", "url": url, "timeout_s": 5.0, **settings}
    return open_target(DicomwebTarget.model_validate(values), "NODE")


def test_report_arrives_byte_for_byte_as_a_plain_part(report):
    path, reference = report
    with serving() as service:
        assert str(target(service.url + "/").send(shipment(report))) == "HTTP 200, stored"
    (asked,) = service.asked
    assert (asked.method, asked.path) == ("POST", "/dicom-web/studies")
    assert asked.instances == [reference.sop_instance_uid]
    assert asked.types == ["application/dicom"]
    assert path.read_bytes() in asked.body
    assert asked.headers["Accept"] == "application/dicom+json"
    assert "Authorization" not in asked.headers


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, lambda uid: stored(uid), "HTTP 200, stored"),
        (200, lambda uid: b"[" + stored(uid) + b"]", "HTTP 200, stored"),
        (200, lambda _: b"", "HTTP 200, stored"),
        (202, lambda uid: stored("1.2", uid, warning=0xB000), "HTTP 202, stored with warning 0xB000"),
        (202, lambda uid: failed(uid, 0x0111), "HTTP 202, 0x0111 duplicate SOP instance: the target has it"),
        (409, lambda uid: failed(uid, 0x0111), "HTTP 409, 0x0111 duplicate SOP instance: the target has it"),
    ],
)
def test_what_counts_as_delivered(status, body, words, report):
    with serving(lambda _: (status, JSON, body(report[1].sop_instance_uid))) as service:
        assert str(target(service.url).send(shipment(report))) == words


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (409, lambda uid: failed(uid, 0xA700), Deferred, "HTTP 409: 0xA700 Out of resources"),
        (202, lambda uid: failed(uid, 0x0110), Deferred, "HTTP 202: 0x0110 Processing failure"),
        (409, lambda uid: failed(uid, 0xA900), Refused, "HTTP 409: 0xA900 Data set does not match SOP class"),
        (409, lambda uid: failed(uid, 0xC122), Refused, "HTTP 409: 0xC122 Cannot understand"),
        (409, lambda uid: failed(uid, 0x0124), Refused, "HTTP 409: 0x0124 Refused, not authorized"),
        (409, lambda uid: stored(uid), Deferred, "the answer is not understood: it does not name the report"),
        (200, lambda _: stored(), Deferred, "it does not name the report"),
        (200, lambda _: stored("1.2.3"), Deferred, "the answer is not understood: it does not name the report"),
        (200, lambda _: b"<html>log in</html>", Deferred, "the answer is not understood: it is not DICOM JSON"),
        (202, lambda _: b"[1, 2]", Deferred, "it is not a data set"),
        (200, lambda _: b'{"00081199": {"Value": [7]}}', Deferred, "does not name the report"),
        (200, lambda _: b"[" * 100_000, Deferred, "it is not DICOM JSON"),
        (400, lambda _: b"", Refused, "HTTP 400: the server does not understand the request"),
        (401, lambda _: b"", Refused, "HTTP 401: the server wants other credentials"),
        (403, lambda _: b"", Refused, "HTTP 403: these credentials do not allow storing here"),
        (404, lambda _: b"", Refused, "HTTP 404: there is no DICOMweb service at this address"),
        (413, lambda _: b"", Refused, "HTTP 413"),
        (415, lambda _: b"", Refused, "HTTP 415"),
        (429, lambda _: b"", Deferred, "HTTP 429: the server cannot take it now"),
        (500, lambda _: b"", Deferred, "HTTP 500: the server cannot take it now"),
        (501, lambda _: b"", Refused, "HTTP 501"),
        (503, lambda _: b"", Deferred, "HTTP 503"),
    ],
)
def test_what_is_tried_again_and_what_is_not(status, body, kind, words, report):
    with serving(lambda _: (status, JSON, body(report[1].sop_instance_uid))) as service, pytest.raises(kind) as caught:
        target(service.url).send(shipment(report))
    assert words in str(caught.value)


def test_server_that_does_not_know_comprehensive_3d_gets_an_older_class(report):
    def old(asked):
        return willing(asked) if asked.classes == [CLASSES["enhanced"]] else (
            409, JSON, failed(asked.instances[0], 0x0122)
        )  # fmt: skip

    with serving(old) as service:
        answer = target(service.url).send(shipment(report))
    assert str(answer) == "HTTP 200, stored, as Enhanced SR"
    assert answer.sent_uid == form_uid(report[1].sop_instance_uid, CLASSES["enhanced"])
    assert [asked.classes for asked in service.asked] == [[uid] for uid in CLASSES.values()]
    with serving(old) as service, pytest.raises(Refused, match="supports none of the SOP classes"):
        target(service.url, sop_class="comprehensive3d").send(shipment(report))
    assert len(service.asked) == 1


def test_document_beside_a_report_goes_as_what_it_is(report):
    path, reference = report
    page = dataclasses.replace(reference, kind=DocumentKind.IMAGE)
    with serving() as service:
        assert str(target(service.url, sop_class="enhanced").send(shipped(path, page))) == "HTTP 200, stored"
    assert service.asked[0].classes == [SOP_CLASS_UID]


def test_redirect_is_not_followed_and_takes_no_credentials_along(report, tmp_path):
    (tmp_path / "token").write_text("geheim\n")
    with serving() as elsewhere:
        away = (307, {"Location": f"{elsewhere.url}/studies?x=1"}, b"")
        with serving(lambda _: away) as service, pytest.raises(Refused) as caught:
            target(service.url, bearer_token_file=tmp_path / "token").send(shipment(report))
    assert elsewhere.asked == []
    assert "HTTP 307: the server points to 127.0.0.1:" in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_credentials_come_from_files_and_are_read_each_time(report, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("open sesame\n")
    with serving() as service:
        basic = target(service.url, user="node", password_file=secret)
        basic.send(shipment(report))
        secret.write_text("changed")
        basic.send(shipment(report))
        target(service.url, bearer_token_file=secret).send(shipment(report))
    sent = [asked.headers["Authorization"] for asked in service.asked]
    assert sent == ["Basic bm9kZTpvcGVuIHNlc2FtZQ==", "Basic bm9kZTpjaGFuZ2Vk", "Bearer changed"]


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), ("", "is empty"), ("a\nb", "more than one line")]
)
def test_secret_that_cannot_be_used_waits_for_the_operator(content, words, report, tmp_path):
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_text(content)
    with serving() as service, pytest.raises(Deferred, match=words):
        target(service.url, bearer_token_file=secret).send(shipment(report))
    assert service.asked == []


def test_silent_slow_endless_and_foreign_servers_are_tried_again(report, free_port):
    with pytest.raises(Deferred, match="no connection to 127"):
        target(f"http://127.0.0.1:{free_port()}").send(shipment(report))
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(Deferred, match=r"no answer from .* within 0.5 s"),
    ):
        target(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.5).send(shipment(report))
    with serving(lambda _: (200, JSON, b" " * 5_000_000)) as service, pytest.raises(Deferred, match="has no end"):
        target(service.url).send(shipment(report))
    with socket.create_server(("127.0.0.1", 0)) as rude:
        thread = threading.Thread(target=_answer_nonsense, args=(rude,))
        thread.start()
        with pytest.raises(Deferred, match="ended the connection or does not use HTTP"):
            target(f"http://127.0.0.1:{rude.getsockname()[1]}").send(shipment(report))
        thread.join()


def _answer_nonsense(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(1024)
        connection.sendall(b"\x02\x00\x00\x00 this is no HTTP\r\n\r\n")


def test_check_searches_or_asks_for_options():
    with serving() as service:
        assert str(target(service.url).check()) == "HTTP 204"
    assert [(asked.method, asked.path) for asked in service.asked] == [("GET", "/dicom-web/studies?limit=1")]

    def storing_only(asked):
        return (200, {}, b"") if asked.method == "OPTIONS" else (405, {}, b"")

    with serving(storing_only) as service:
        assert str(target(service.url).check()) == "HTTP 200"
    with serving(lambda _: (401, {}, b"")) as service, pytest.raises(Refused, match="other credentials"):
        target(service.url).check()
    with serving(lambda _: (503, {}, b"")) as service, pytest.raises(Deferred, match="HTTP 503"):
        target(service.url).check()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    """Return a folder with a CA, a server's and a client's certificate of it, and a CA that nobody knows."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    for name in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                "-keyout", f"{name}.key", "-out", f"{name}.pem")  # fmt: skip
    for name in ("server", "client"):
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key",
                "-out", f"{name}.csr")  # fmt: skip
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", "names", "-out", f"{name}.pem")  # fmt: skip
    return folder


def test_certificates_are_checked_both_ways(report, certificates):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.load_verify_locations(certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    client = {"certificate": certificates / "client.pem", "key": certificates / "client.key"}
    with serving(tls=context) as service:
        answer = target(service.url, ca=certificates / "ca.pem", **client).send(shipment(report))
        assert str(answer) == "HTTP 200, stored"
        with pytest.raises(Deferred, match=r"the certificate of 127.0.0.1:.* is not trusted"):
            target(service.url, ca=certificates / "other.pem", **client).send(shipment(report))
        with pytest.raises(Deferred):
            target(service.url, ca=certificates / "ca.pem").send(shipment(report))
        with pytest.raises(Deferred, match="files of ca, certificate and key cannot be used"):
            target(service.url, ca=certificates / "absent.pem").send(shipment(report))
    assert len(service.asked) == 1


def test_words_of_the_server_are_not_needed_for_the_log(report):
    module = json.loads(failed(report[1].sop_instance_uid, 0xC000))
    module["00080005"] = {"vr": "LO", "Value": ["Doe^Jane"]}
    answer = (409, JSON, json.dumps(module).encode())
    with serving(lambda _: answer) as service, pytest.raises(Refused) as caught:
        target(service.url).send(shipment(report))
    assert "Doe" not in str(caught.value)
