"""DICOM audit messages (PS3.15 A.5) from rows of the audit log, as XML of the schema in PS3.15 A.5.1.

| rows | message | EventID and type |
|---|---|---|
| login, logout | User Authentication | 110114, 110122 or 110123 |
| start and stop of the role web | Application Activity | 110100, 110120 or 110121 |
| the audit log looked at or exported | Audit Log Used | 110101 |
| series and pictures of a study, reviews and actions on it | DICOM Instances Accessed | 110103 |
| exports and downloads | Data Export | 110106 |
| accounts, tokens, refused access | Security Alert | 110113, 110135 to 110137 |
| every other action | Security Alert | 110113, 110132 Use of Restricted Function |
"""

from __future__ import annotations

import base64
import datetime as dt
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

from dicom_qa_node.store.audit import AuditEntry, Outcome

__all__ = ["Code", "audit_message"]


@dataclass(frozen=True, slots=True)
class Code:
    """A coded value; ``system`` is DCM unless it is one of RFC 3881's own tables."""

    value: str
    meaning: str
    system: str = "DCM"


_APPLICATION = Code("110100", "Application Activity")
_LOG_USED = Code("110101", "Audit Log Used")
_ACCESSED = Code("110103", "DICOM Instances Accessed")
_EXPORT = Code("110106", "Export")
_ALERT = Code("110113", "Security Alert")
_AUTHENTICATION = Code("110114", "User Authentication")
_FIXED = {
    "login": (_AUTHENTICATION, "E", Code("110122", "Login")),
    "login.oidc": (_AUTHENTICATION, "E", Code("110122", "Login")),
    "logout": (_AUTHENTICATION, "E", Code("110123", "Logout")),
    "application.start": (_APPLICATION, "E", Code("110120", "Application Start")),
    "application.stop": (_APPLICATION, "E", Code("110121", "Application Stop")),
    "account.role": (_ALERT, "E", Code("110136", "Security Roles Changed")),
    "account.password": (_ALERT, "E", Code("110137", "User security Attributes Changed")),
}
_CHANGED = Code("110135", "Object Security Attributes Changed")
_RESTRICTED = Code("110132", "Use of Restricted Function")
_SOURCE = Code("110153", "Source Role ID")
_MEDIA = Code("110154", "Destination Media")
_URI_MEDIA = Code("110037", "URI")
_PROGRAM = Code("110150", "Application")
_PATIENT, _URI = Code("2", "Patient Number", "RFC-3881"), Code("12", "URI", "RFC-3881")
_STUDY = Code("110180", "Study Instance UID")
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
    SubElement(parent, name, {"csd-code": code.value, "codeSystemName": code.system, "originalText": code.meaning})


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
