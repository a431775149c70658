"""DICOM audit messages (PS3.15 A.5) of the audit log, sent to a syslog server (RFC 5424, 5425)."""

from __future__ import annotations

import base64
import datetime as dt
import fcntl
import os
import socket
import ssl
import struct
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from xml.etree.ElementTree import Element, SubElement, tostring

from dicom_qa_node.accounts.audit import Audit, AuditEntry, Outcome
from dicom_qa_node.config import Config
from dicom_qa_node.config.web import AuditSyslog
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.codes import Code
from dicom_qa_node.domain.errors import Misconfigured, Transient

__all__ = ["CURSOR", "SyslogSender", "audit_message", "syslog_line"]


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)


_APPLICATION = _dcm("110100", "Application Activity")
_LOG_USED = _dcm("110101", "Audit Log Used")
_ACCESSED = _dcm("110103", "DICOM Instances Accessed")
_EXPORT = _dcm("110106", "Export")
_ALERT = _dcm("110113", "Security Alert")
_AUTHENTICATION = _dcm("110114", "User Authentication")
_FIXED = {
    "login": (_AUTHENTICATION, "E", _dcm("110122", "Login")),
    "login.oidc": (_AUTHENTICATION, "E", _dcm("110122", "Login")),
    "logout": (_AUTHENTICATION, "E", _dcm("110123", "Logout")),
    "application.start": (_APPLICATION, "E", _dcm("110120", "Application Start")),
    "application.stop": (_APPLICATION, "E", _dcm("110121", "Application Stop")),
    "account.role": (_ALERT, "E", _dcm("110136", "Security Roles Changed")),
    "account.password": (_ALERT, "E", _dcm("110137", "User security Attributes Changed")),
}
_CHANGED = _dcm("110135", "Object Security Attributes Changed")
_RESTRICTED = _dcm("110132", "Use of Restricted Function")
_SOURCE = _dcm("110153", "Source Role ID")
_MEDIA = _dcm("110154", "Destination Media")
_URI_MEDIA = _dcm("110037", "URI")
_PROGRAM = _dcm("110150", "Application")
_PATIENT, _URI = Code("2", "RFC-3881", "Patient Number"), Code("12", "RFC-3881", "URI")
_STUDY = _dcm("110180", "Study Instance UID")
#: ParticipantObjectTypeCode and ParticipantObjectTypeCodeRole (RFC 3881 5.5.1, 5.5.2).
_PERSON, _SYSTEM = "1", "2"
_PATIENT_ROLE, _REPORT, _SECURITY_RESOURCE = "1", "3", "13"
#: 0 success, 4 minor failure (not allowed, wrong password), 8 serious failure (RFC 3881 §5.1.4).
_OUTCOMES = {Outcome.SUCCESS: "0", Outcome.REFUSED: "4", Outcome.FAILED: "4"}
_EXPORT_WORDS = ("export", "download", "csv", "json")


def audit_message(entry: AuditEntry, node: str, site: str) -> bytes:
    """Return the XML of one row.

    Parameters
    ----------
    node
        AE title of this node: the audit source, and the application that the user talked to.
    site
        Host name: ``AuditEnterpriseSiteID``.
    """
    event, action, kind = _event_of(entry)
    root = Element("AuditMessage")
    head = SubElement(
        root,
        "EventIdentification",
        EventActionCode=action,
        EventDateTime=entry.at.astimezone(dt.UTC).isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=_OUTCOMES[entry.outcome],
    )
    _coded(head, "EventID", event)
    if kind is not None:
        _coded(head, "EventTypeCode", kind)
    if entry.outcome is not Outcome.SUCCESS or entry.detail:
        SubElement(head, "EventOutcomeDescription").text = f"{entry.event}: {entry.detail or entry.outcome.value}"
    _participants(root, entry, node, event)
    source = SubElement(root, "AuditSourceIdentification", AuditSourceID=node, AuditEnterpriseSiteID=site)
    # 4: application server process (RFC 3881 §5.4.3).
    SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})
    _objects(root, entry, event)
    text: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _event_of(entry: AuditEntry) -> tuple[Code, str, Code | None]:
    if entry.event in _FIXED:
        return _FIXED[entry.event]
    area, _, rest = entry.event.partition(".")
    if area in ("account", "token", "access"):
        return _ALERT, "E", _CHANGED
    if area == "audit":
        return _LOG_USED, "R", None
    if any(word in rest for word in _EXPORT_WORDS):
        return _EXPORT, "R", None
    if entry.study_instance_uid:
        return _ACCESSED, "R" if "view" in rest else "U", None
    return _ALERT, "E", _RESTRICTED


def _coded(parent: Element, name: str, code: Code) -> None:
    SubElement(parent, name, {"csd-code": code.value, "codeSystemName": code.scheme, "originalText": code.meaning})


def _participants(root: Element, entry: AuditEntry, node: str, event: Code) -> None:
    person = SubElement(root, "ActiveParticipant", UserID=entry.actor, UserIsRequestor="true")
    if entry.address:
        _placed(person, entry.address)
    program = SubElement(root, "ActiveParticipant", UserID=node, UserIsRequestor="false")
    if event is _APPLICATION:
        _coded(program, "RoleIDCode", _PROGRAM)
    if event is _EXPORT:
        _coded(program, "RoleIDCode", _SOURCE)
        media = SubElement(root, "ActiveParticipant", UserID=entry.address or entry.actor, UserIsRequestor="false")
        _coded(media, "RoleIDCode", _MEDIA)
        _coded(SubElement(media, "MediaIdentifier"), "MediaType", _URI_MEDIA)


def _placed(participant: Element, address: str) -> None:
    participant.set("NetworkAccessPointID", address)
    # 2: an IP address; 1 would be a machine's name (RFC 3881 5.2.5).
    participant.set("NetworkAccessPointTypeCode", "2")


def _objects(root: Element, entry: AuditEntry, event: Code) -> None:
    if event in (_AUTHENTICATION, _APPLICATION):
        return
    if event is _LOG_USED:
        log = _object(root, "audit log", _SYSTEM, _SECURITY_RESOURCE, _URI)
        SubElement(log, "ParticipantObjectName").text = "Security Audit Log"
        return
    if entry.study_instance_uid:
        study = _object(root, entry.study_instance_uid, _SYSTEM, _REPORT, _STUDY)
        if entry.kind == "series":
            _detail(study, "SeriesInstanceUID", entry.ident)
    elif entry.ident or event is _ALERT:
        subject = _object(root, f"{entry.kind} {entry.ident}".strip() or entry.event, _SYSTEM, _SECURITY_RESOURCE, _URI)
        _detail(subject, "Alert Description", f"{entry.event} {entry.detail}".strip())
    if entry.patient_id:
        _object(root, entry.patient_id, _PERSON, _PATIENT_ROLE, _PATIENT)


def _object(root: Element, ident: str, kind: str, role: str, code: Code) -> Element:
    found = SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=ident,
        ParticipantObjectTypeCode=kind,
        ParticipantObjectTypeCodeRole=role,
    )
    _coded(found, "ParticipantObjectIDTypeCode", code)
    return found


def _detail(parent: Element, name: str, value: str) -> None:
    SubElement(parent, "ParticipantObjectDetail", type=name, value=base64.b64encode(value.encode()).decode())


CURSOR = "syslog"
_BATCH = 100
#: Facility 10 (security and authorisation), severity 5 (notice).
_PRIORITY = 10 * 8 + 5
_MESSAGE_ID = "DICOM+RFC3881"
#: A UDP packet that needs no fragments on most networks would be smaller; this is what one packet can hold at all.
_LARGEST_PACKET = 65_000


def syslog_line(entry: AuditEntry, node: str, host: str) -> bytes:
    """Return one row as a message of RFC 5424: header, no structured data, and the XML after a byte order mark."""
    at = entry.at.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = f"<{_PRIORITY}>1 {at} {host} dicom-qa-node {os.getpid()} {_MESSAGE_ID} - "
    return head.encode("ascii", "replace") + b"\xef\xbb\xbf" + audit_message(entry, node, host)


class SyslogSender:
    """Sends what has not been sent; `send` is one run of the periodic task."""

    def __init__(self, config: Config, database: Database, host: str | None = None) -> None:
        self._settings: AuditSyslog = config.web.syslog
        self._node, self._host = config.ae_title.strip(), host or socket.getfqdn() or "-"
        self._audit = Audit(database)

    def send(self) -> int:
        """Send every row behind the cursor and return how many went.

        Raises
        ------
        Transient
            The server does not take them now; the next run goes on where this one stopped.
        Misconfigured
            A certificate file cannot be used.
        """
        done = 0
        rows = self._audit.after(self._audit.cursor(CURSOR), _BATCH)
        if not rows:
            return 0
        try:
            with self._open() as hand_over:
                while rows:
                    hand_over([syslog_line(row, self._node, self._host) for row in rows])
                    self._audit.advance(CURSOR, rows[-1].audit_id)
                    done += len(rows)
                    rows = self._audit.after(rows[-1].audit_id, _BATCH)
        except OSError as error:
            where = f"{self._settings.host}:{self._settings.port}"
            raise Transient(f"syslog server {where}: {error.strerror or error}") from error
        return done

    @contextmanager
    def _open(self) -> Iterator[Callable[[Sequence[bytes]], None]]:
        settings = self._settings
        place = (settings.host, settings.port)
        if settings.transport == "udp":
            with _datagram_socket(place) as connection:
                connection.settimeout(settings.timeout_s)
                yield lambda messages: _packets(connection, messages)
            return
        with self._connected(place) as connection:
            yield lambda messages: _frames(connection, messages, settings.timeout_s)
            _finish(connection)

    def _connected(self, place: tuple[str, int]) -> socket.socket:
        plain = socket.create_connection(place, self._settings.timeout_s)
        if self._settings.transport == "tcp":
            return plain
        try:
            return self._secured(plain)
        except BaseException:
            plain.close()
            raise

    def _secured(self, plain: socket.socket) -> ssl.SSLSocket:
        settings = self._settings
        try:
            context = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
            if settings.certificate is not None and settings.key is not None:
                context.load_cert_chain(settings.certificate, settings.key)
        except OSError as error:
            raise Misconfigured(f"web.syslog: a certificate file cannot be used: {error}") from error
        return context.wrap_socket(plain, server_hostname=settings.host)


def _datagram_socket(place: tuple[str, int]) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(*place, type=socket.SOCK_DGRAM)[0]
    connection = socket.socket(family, kind, protocol)
    connection.connect(address)
    return connection


def _packets(connection: socket.socket, messages: Sequence[bytes]) -> None:
    for message in messages:
        connection.send(message[:_LARGEST_PACKET])


def _frames(connection: socket.socket, messages: Sequence[bytes], patience_s: float) -> None:
    for message in messages:
        # Octet counting: RFC 5425 4.3, RFC 6587 3.4.1.
        connection.sendall(str(len(message)).encode() + b" " + message)
    deadline = time.monotonic() + patience_s
    while _unacknowledged(connection):
        if time.monotonic() > deadline:
            raise TimeoutError("the server does not take what was sent")
        time.sleep(0.01)
    _still_open(connection)


def _unacknowledged(connection: socket.socket) -> int:
    # Bytes in the send queue that the other machine has not acknowledged, tcp(7).
    return int(struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0])


def _still_open(connection: socket.socket) -> None:
    # A server never answers; what can be read is the end of the connection, and then nobody read the last bytes.
    waiting = connection.gettimeout()
    connection.setblocking(False)
    try:
        if connection.recv(1) == b"":
            raise ConnectionResetError("the server has closed the connection")
    except (BlockingIOError, ssl.SSLWantReadError):
        pass
    finally:
        connection.settimeout(waiting)


def _finish(connection: socket.socket) -> None:
    if isinstance(connection, ssl.SSLSocket):
        connection.settimeout(2)
        try:
            connection.unwrap()
        except OSError:
            return
