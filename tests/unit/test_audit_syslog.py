"""The audit log as DICOM audit messages to a syslog server on loopback: every field, every transport, nothing lost."""

from __future__ import annotations

import base64
import datetime as dt
import re
import socket
import ssl
import threading
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import sqlalchemy as sa

from dicom_qa_node.accounts.audit import Audit, AuditEntry, Outcome
from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.errors import Misconfigured, Transient
from dicom_qa_node.ops.audit_syslog import CURSOR, SyslogSender, audit_message
from dicom_qa_node.ops.scheduler import tasks_of

AT = dt.datetime(2026, 3, 1, 7, 30, 15, 250_000, tzinfo=dt.UTC)
ROW = AuditEntry(
    7, AT, "series.view", Outcome.SUCCESS, "rudi", "reviewer", "10.1.2.3", "series", "1.2.3.4", "1.2.3", "PID-1", ""
)


def parsed(**change) -> ElementTree.Element:
    return ElementTree.fromstring(audit_message(replace(ROW, **change), "QANODE", "host.example"))


def code(element: ElementTree.Element | None) -> tuple[str, str, str]:
    assert element is not None
    return element.attrib["csd-code"], element.attrib["codeSystemName"], element.attrib["originalText"]


def objects(message) -> list[tuple[str, str, str, str]]:
    return [
        (
            item.attrib["ParticipantObjectID"],
            item.attrib["ParticipantObjectTypeCode"],
            item.attrib["ParticipantObjectTypeCodeRole"],
            code(item.find("ParticipantObjectIDTypeCode"))[0],
        )
        for item in message.findall("ParticipantObjectIdentification")
    ]


def test_instances_accessed_field_by_field():
    message = parsed()
    assert message.tag == "AuditMessage"
    assert [child.tag for child in message] == [
        "EventIdentification", "ActiveParticipant", "ActiveParticipant", "AuditSourceIdentification",
        "ParticipantObjectIdentification", "ParticipantObjectIdentification",
    ]  # fmt: skip
    event = message.find("EventIdentification")
    assert event.attrib == {
        "EventActionCode": "R",
        "EventDateTime": "2026-03-01T07:30:15.250+00:00",
        "EventOutcomeIndicator": "0",
    }
    assert code(event.find("EventID")) == ("110103", "DCM", "DICOM Instances Accessed")
    assert event.find("EventTypeCode") is None
    person, node = message.findall("ActiveParticipant")
    assert person.attrib == {
        "UserID": "rudi",
        "UserIsRequestor": "true",
        "NetworkAccessPointID": "10.1.2.3",
        "NetworkAccessPointTypeCode": "2",
    }
    assert node.attrib == {"UserID": "QANODE", "UserIsRequestor": "false"}
    source = message.find("AuditSourceIdentification")
    assert source.attrib == {"AuditSourceID": "QANODE", "AuditEnterpriseSiteID": "host.example"}
    assert source.find("AuditSourceTypeCode").attrib == {"csd-code": "4"}
    assert objects(message) == [("1.2.3", "2", "3", "110180"), ("PID-1", "1", "1", "2")]
    detail = message.find("ParticipantObjectIdentification/ParticipantObjectDetail")
    assert detail.attrib["type"] == "SeriesInstanceUID"
    assert base64.b64decode(detail.attrib["value"]) == b"1.2.3.4"


@pytest.mark.parametrize(
    ("event", "study", "action", "ident", "kind"),
    [
        ("login", "", "E", "110114", "110122"),
        ("login.oidc", "", "E", "110114", "110122"),
        ("logout", "", "E", "110114", "110123"),
        ("application.start", "", "E", "110100", "110120"),
        ("application.stop", "", "E", "110100", "110121"),
        ("audit.export", "", "R", "110101", None),
        ("log.export", "", "R", "110106", None),
        ("report.download", "1.2.3", "R", "110106", None),
        ("series.rescore", "1.2.3", "U", "110103", None),
        ("account.role", "", "E", "110113", "110136"),
        ("account.password", "", "E", "110113", "110137"),
        ("account.add", "", "E", "110113", "110135"),
        ("access", "", "E", "110113", "110135"),
        ("alert.acknowledge", "", "E", "110113", "110132"),
    ],
)
def test_event_of_every_kind_of_row(event, study, action, ident, kind):
    found = parsed(event=event, study_instance_uid=study).find("EventIdentification")
    assert found.attrib["EventActionCode"] == action
    assert code(found.find("EventID"))[:2] == (ident, "DCM")
    assert (found.find("EventTypeCode") is None) if kind is None else (code(found.find("EventTypeCode"))[0] == kind)


def test_authentication_names_no_object_and_failure_is_told():
    message = parsed(event="login", outcome=Outcome.FAILED, study_instance_uid="", patient_id="", kind="account")
    event = message.find("EventIdentification")
    assert event.attrib["EventOutcomeIndicator"] == "4"
    assert event.find("EventOutcomeDescription").text == "login: failed"
    assert objects(message) == []


def test_export_names_source_and_medium():
    message = parsed(event="log.export", study_instance_uid="", patient_id="")
    roles = [code(item.find("RoleIDCode"))[0] for item in message.findall("ActiveParticipant")[1:]]
    assert roles == ["110153", "110154"]
    assert code(message.findall("ActiveParticipant")[2].find("MediaIdentifier/MediaType"))[0] == "110037"


def test_use_of_the_audit_log():
    message = parsed(event="audit.view")
    (item,) = message.findall("ParticipantObjectIdentification")
    assert item.attrib["ParticipantObjectTypeCodeRole"] == "13"
    assert item.find("ParticipantObjectName").text == "Security Audit Log"


def test_strange_words_stay_text():
    message = parsed(actor='<x a="1">&', patient_id="É\u202e<")
    assert message.find("ActiveParticipant").attrib["UserID"] == '<x a="1">&'
    assert objects(message)[1][0] == "É\u202e<"


class Listener:
    """A syslog server over TCP or TLS that counts octets."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._context = context
        self.port = self._server.getsockname()[1]
        self.received = b""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            try:
                stream = self._context.wrap_socket(connection, server_side=True) if self._context else connection
                with stream:
                    while part := stream.recv(65536):
                        self.received += part
            except OSError:
                connection.close()

    def messages(self) -> list[bytes]:
        found, rest = [], self.received
        while rest:
            size, _, rest = rest.partition(b" ")
            if len(rest) < int(size):
                return found
            found.append(rest[: int(size)])
            rest = rest[int(size) :]
        return found

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/quality.db")
    database.upgrade()
    yield database
    database.close()


def config(tmp_path, port: int, **more) -> Config:
    syslog = {"host": "127.0.0.1", "port": port, "timeout_s": 3, **more}
    return Config.model_validate(
        {"ae_title": "QANODE", "spool_dir": tmp_path / "spool", "web": {"syslog": syslog}, "database_url": "sqlite://"}
    )


def idents(messages: list[bytes]) -> list[str]:
    return [re.search(rb'ParticipantObjectID="(?:series )?(\S+?)"', message)[1].decode() for message in messages]


def record(database: Database, first: int, last: int) -> None:
    for number in range(first, last):
        Audit(database).record("review.add", actor="rudi", kind="series", ident=f"n{number}")


def test_rows_arrive_in_order_and_none_is_lost_while_the_server_is_away(tmp_path, database, poll):
    listener = Listener()
    sender = SyslogSender(config(tmp_path, listener.port, transport="tcp"), database, "host.example")
    record(database, 0, 5)
    assert sender.send() == 5
    assert sender.send() == 0
    listener.close()
    record(database, 5, 8)
    poll(lambda: not _connects(listener.port), what="the server is gone")
    for _ in range(2):
        with pytest.raises(Transient, match="syslog server"):
            sender.send()
    assert Audit(database).cursor(CURSOR) == 5
    again = Listener()
    sender = SyslogSender(config(tmp_path, again.port, transport="tcp"), database, "host.example")
    assert sender.send() == 3
    poll(lambda: len(again.messages()) == 3)
    poll(lambda: len(listener.messages()) == 5)
    assert idents(listener.messages() + again.messages()) == [f"n{number}" for number in range(8)]
    again.close()


def _connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_header_of_the_syslog_message(tmp_path, database, poll):
    listener = Listener()
    record(database, 0, 1)
    SyslogSender(config(tmp_path, listener.port, transport="tcp"), database, "host.example").send()
    poll(lambda: len(listener.messages()) == 1)
    time = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    head = rb"<85>1 " + time + rb" host\.example dicom-qa-node \d+ DICOM\+RFC3881 - \xef\xbb\xbf<\?xml"
    assert re.match(head, listener.messages()[0])
    listener.close()


def test_udp(tmp_path, database):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        record(database, 0, 2)
        SyslogSender(config(tmp_path, server.getsockname()[1], transport="udp"), database).send()
        assert idents([server.recv(65536), server.recv(65536)]) == ["n0", "n1"]


def certificate(folder):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "syslog")])
    now = dt.datetime.now(dt.UTC)
    import ipaddress

    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.KeyUsage(True, False, False, False, False, True, True, False, False), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return folder / "cert.pem", folder / "key.pem"


def test_tls_with_a_checked_certificate(tmp_path, database, poll):
    cert, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    listener = Listener(context)
    record(database, 0, 3)
    with pytest.raises(Transient):
        SyslogSender(config(tmp_path, listener.port), database).send()
    assert Audit(database).cursor(CURSOR) == 0
    assert SyslogSender(config(tmp_path, listener.port, ca_file=str(cert)), database).send() == 3
    poll(lambda: idents(listener.messages()) == ["n0", "n1", "n2"])
    with pytest.raises(Misconfigured):
        record(database, 3, 4)
        SyslogSender(config(tmp_path, listener.port, ca_file=str(tmp_path / "absent.pem")), database).send()
    listener.close()


def test_it_is_a_periodic_task_when_configured(tmp_path, database):
    names = [task.name for task in tasks_of(config(tmp_path, 1), database)]
    assert "audit syslog" in names
    assert "audit syslog" not in [task.name for task in tasks_of(Config(spool_dir=tmp_path / "spool"), database)]


@pytest.mark.parametrize("statement", ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log"])
def test_the_audit_log_is_append_only(database, statement):
    record(database, 0, 1)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), database.write() as connection:
        connection.execute(sa.text(statement))
    assert Audit(database).entries()[0].actor == "rudi"


def test_replacing_a_row_is_refused_too(database):
    record(database, 0, 1)
    row = "INSERT OR REPLACE INTO audit_log SELECT 1, at, event, outcome, 'x', role, address, kind, ident, "
    with pytest.raises(sa.exc.DBAPIError), database.write() as connection:
        connection.execute(sa.text(row + "study_instance_uid, patient_id, detail FROM audit_log"))
    assert Audit(database).entries()[0].actor == "rudi"
