"""Writes a verdict on a series of Orthanc: metadata, the one-page summary as attachment, a label with the grade."""

from __future__ import annotations

from pathlib import Path

from pydicom.errors import InvalidDicomError

from dicom_qa_node.config import Config
from dicom_qa_node.deliver.orthanc.report_codes import ReportedVerdict, read_verdict
from dicom_qa_node.deliver.orthanc.rest_client import OrthancClient
from dicom_qa_node.deliver.orthanc.server_settings import METADATA, UnknownNames, content_name, metadata_name
from dicom_qa_node.dicom_io.pydicom_patches import dcmread
from dicom_qa_node.domain.delivery import ReportRef

__all__ = ["mark_series", "page_of", "report_in_orthanc"]

_LABEL = "quality-"


def mark_series(
    client: OrthancClient, config: Config, orthanc_id: str, verdict: ReportedVerdict, page: bytes, *, labels: bool
) -> None:
    """Write a verdict on one series; what stands there already is not written again.

    Parameters
    ----------
    page
        The one-page summary as PDF, empty where there is none.
    labels
        Whether this Orthanc has labels.

    Raises
    ------
    UnknownNames
        Orthanc's configuration lacks a name.
    """
    settings = config.orthanc
    values = (verdict.score_text, verdict.grade, verdict.sentence, verdict.report_uid)
    if page and not client.attach(orthanc_id, content_name(settings), page):
        raise UnknownNames(config, content_name(settings))
    if labels and settings.labels:
        _label(client, orthanc_id, f"{_LABEL}{verdict.grade.replace(' ', '-')}")
    # The report's UID comes last: where it stands, everything stands.
    for what, value in zip(METADATA, values, strict=True):
        name = metadata_name(settings, what)
        if not client.set_metadata(orthanc_id, name, value):
            raise UnknownNames(config, name)


def report_in_orthanc(client: OrthancClient, sop_instance_uid: str) -> ReportedVerdict | None:
    """Return the verdict of a report that Orthanc holds, None if it does not hold it."""
    for orthanc_id in client.lookup(sop_instance_uid, "Instance"):
        return read_verdict(client.instance_file(orthanc_id))
    return None


def page_of(spool_dir: Path, document: ReportRef | None) -> bytes:
    """Return the PDF inside an Encapsulated PDF of the spool; empty where there is none."""
    if document is None:
        return b""
    try:
        encapsulated = dcmread(spool_dir / document.path)
        length = int(encapsulated.get("EncapsulatedDocumentLength") or 0)
        return bytes(encapsulated.EncapsulatedDocument)[: length or None]
    except (OSError, InvalidDicomError, AttributeError, ValueError, EOFError):
        return b""


def _label(client: OrthancClient, orthanc_id: str, label: str) -> None:
    present = client.labels(orthanc_id)
    for other in present:
        if other.startswith(_LABEL) and other != label:
            client.remove_label(orthanc_id, other)
    if label not in present:
        client.add_label(orthanc_id, label)
