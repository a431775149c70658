"""Sends reports to a DICOMweb origin server by STOW-RS (PS3.18 10.5), one request per report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import httpx2
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from dicom_qa_node.config import DicomwebTarget, Peer
from dicom_qa_node.deliver.http_exchange import exchange, open_client, passing
from dicom_qa_node.deliver.stow_response import NotUnderstood, response_outcome
from dicom_qa_node.deliver.targets.base import Answer, Deferred, DeliveryItem, Refused, classes_of
from dicom_qa_node.domain.delivery import ReportRef

__all__ = ["Dicomweb", "open_target"]

_JSON = "application/dicom+json"
_CHUNK = 64 * 1024
_BOUNDARY = "dicom-qa-node-3f8a1c5e"
_WORDS = {
    400: "the server does not understand the request",
    401: "the server wants other credentials: check user and password_file, or bearer_token_file",
    403: "these credentials do not allow storing here",
    404: "there is no DICOMweb service at this address: check url",
    405: "the service does not store (STOW-RS)",
    406: "the service cannot answer in DICOM JSON",
    413: "the report is too large for the server",
    415: "the service does not take this kind of object",
}
_NO_SEARCH = (404, 405, 406, 501)


class Dicomweb:
    """A DICOMweb service; connections, certificates and secrets are opened anew for each report."""

    def __init__(self, settings: DicomwebTarget) -> None:
        self._settings = settings
        self._studies = f"{settings.url.rstrip('/')}/studies"
        self._classes = classes_of(settings.sop_class)

    def send(self, shipment: DeliveryItem) -> Answer:
        """Store the report, as the first SOP class that the server takes; see `DeliveryTarget.send`."""
        classes = shipment.classes(self._classes)
        with self._client() as client:
            for sop_class_uid in classes:
                form = shipment.form(sop_class_uid)
                answer = self._store(client, shipment.path_of(form), form, last=sop_class_uid == classes[-1])
                if answer is not None:
                    return answer.of(form, shipment.report)
        raise Refused("the server supports none of the SOP classes of the report", ", ".join(classes))

    def check(self) -> Answer:
        """Search for one study, or ask for the options where the service has no search."""
        with self._client() as client:
            status = exchange(client, "GET", f"{self._studies}?limit=1", self._settings.timeout_s).status
            if status in _NO_SEARCH:
                status = exchange(client, "OPTIONS", self._studies, self._settings.timeout_s).status
        if 200 <= status < 300:
            return Answer(f"HTTP {status}")
        raise _failure(status)

    def _store(self, client: httpx2.Client, path: Path, form: ReportRef, *, last: bool) -> Answer | None:
        """Return the acceptance, None if the server does not support the SOP class."""
        head, tail = _envelope(path)
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={_BOUNDARY}',
            "Content-Length": str(len(head) + path.stat().st_size + len(tail)),
        }
        body = _body(head, path, tail)
        answer = exchange(client, "POST", self._studies, self._settings.timeout_s, headers, body)
        status, content = answer.status, answer.content
        # 415 concerns the media type; some services use it for the SOP class.
        if status == 415 and not last:
            return None
        if status not in (200, 202, 409):
            raise _failure(status)
        try:
            return response_outcome(status, content, form)
        except NotUnderstood as error:
            raise Deferred(f"HTTP {status}, but the answer is not understood: {error}") from error

    def _client(self) -> AbstractContextManager[httpx2.Client]:
        return open_client(self._settings, _JSON)


def open_target(settings: DicomwebTarget, _calling_ae: str, _peers: Sequence[Peer]) -> Dicomweb:
    """Return the target of a ``dicomweb`` section."""
    return Dicomweb(settings)


def _envelope(path: Path) -> tuple[bytes, bytes]:
    """Return what stands before and after the file in a multipart body (RFC 2387, PS3.18 8.6.1.2.1)."""
    try:
        read_file_meta_info(path)
    except (OSError, InvalidDicomError, AttributeError, ValueError, EOFError) as error:
        raise Refused("the file is not a DICOM Part 10 file") from error
    # Orthanc's plugin passes over a part whose type has the optional parameter transfer-syntax, and answers 200.
    head = f"--{_BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n"
    return head.encode("ascii"), f"\r\n--{_BOUNDARY}--\r\n".encode("ascii")


def _body(head: bytes, path: Path, tail: bytes) -> Iterator[bytes]:
    yield head
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
    yield tail


def _failure(status: int) -> Refused | Deferred:
    if passing(status):
        return Deferred(f"HTTP {status}: the server cannot take it now")
    return Refused(f"HTTP {status}: {_WORDS.get(status, 'the server does not take it')}")
