"""Sends reports to a DICOMweb origin server by STOW-RS (PS3.18 10.5), one request per report."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from dicom_qa_node.config import DicomwebTarget, Peer
from dicom_qa_node.deliver.stow_response import NotUnderstood, response_outcome
from dicom_qa_node.deliver.targets.base import Answer, Deferred, DeliveryItem, Refused, classes_of
from dicom_qa_node.domain.delivery import ReportRef

__all__ = ["Dicomweb", "open_target"]

_JSON = "application/dicom+json"
_LARGEST_ANSWER = 4 * 1024 * 1024
_CHUNK = 64 * 1024
_LONGEST_SECRET = 64 * 1024
_BOUNDARY = "dicom-qa-node-3f8a1c5e"
#: Temporary statuses (RFC 9110, RFC 6585).
_PASSING = frozenset({408, 421, 425, 429})
_NEVER = frozenset({501, 505, 511})
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
            status, _ = _exchange(client, "GET", f"{self._studies}?limit=1", self._settings.timeout_s)
            if status in _NO_SEARCH:
                status, _ = _exchange(client, "OPTIONS", self._studies, self._settings.timeout_s)
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
        status, content = _exchange(client, "POST", self._studies, self._settings.timeout_s, headers, body)
        # 415 concerns the media type; some services use it for the SOP class.
        if status == 415 and not last:
            return None
        if status not in (200, 202, 409):
            raise _failure(status)
        try:
            return response_outcome(status, content, form)
        except NotUnderstood as error:
            raise Deferred(f"HTTP {status}, but the answer is not understood: {error}") from error

    @contextmanager
    def _client(self) -> Iterator[httpx2.Client]:
        settings = self._settings
        try:
            # Proxies and passwords from the environment are none of this target's business.
            with httpx2.Client(
                auth=self._auth(),
                headers={"Accept": _JSON, "User-Agent": "dicom-qa-node"} | self._bearer(),
                verify=self._tls() if settings.url.startswith("https:") else True,
                timeout=settings.timeout_s,
                follow_redirects=False,
                trust_env=False,
            ) as client:
                yield client
        except httpx2.TimeoutException as error:
            raise Deferred(f"no answer from {self._host} within {settings.timeout_s:g} s") from error
        except httpx2.HTTPError as error:
            raise _no_connection(self._host, error) from error

    @property
    def _host(self) -> str:
        return urlsplit(self._settings.url).netloc

    def _auth(self) -> httpx2.BasicAuth | None:
        path = self._settings.password_file
        return None if path is None else httpx2.BasicAuth(self._settings.user, _secret(path, "password_file"))

    def _bearer(self) -> dict[str, str]:
        path = self._settings.bearer_token_file
        return {} if path is None else {"Authorization": f"Bearer {_secret(path, 'bearer_token_file')}"}

    def _tls(self) -> ssl.SSLContext:
        settings = self._settings
        try:
            context = ssl.create_default_context(cafile=settings.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if settings.certificate is not None:
                context.load_cert_chain(settings.certificate, settings.key)
        except (OSError, ssl.SSLError) as error:
            raise Deferred(f"the files of ca, certificate and key cannot be used: {error.strerror or error}") from error
        return context


def open_target(settings: DicomwebTarget, _calling_ae: str, _peers: Sequence[Peer]) -> Dicomweb:
    """Return the target of a ``dicomweb`` section."""
    return Dicomweb(settings)


def _secret(path: Path, key: str) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            secret = file.read(_LONGEST_SECRET).strip()
    except (OSError, UnicodeDecodeError) as error:
        words = error.strerror if isinstance(error, OSError) else "it is not text"
        raise Deferred(f"the file of {key} cannot be read: {words}") from error
    if not secret or not secret.isprintable():
        raise Deferred(f"the file of {key} is empty or holds more than one line")
    return secret


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


def _exchange(
    client: httpx2.Client,
    method: str,
    url: str,
    timeout_s: float,
    headers: Mapping[str, str] | None = None,
    body: Iterator[bytes] | None = None,
) -> tuple[int, bytes]:
    """Return status and body of an answer; a long, a slow and a redirecting one are refused."""
    deadline = time.monotonic() + timeout_s
    with client.stream(method, url, headers=headers, content=body) as response:
        if response.is_redirect:
            where = urlsplit(response.headers.get("Location", "")).netloc or "another place"
            raise Refused(f"HTTP {response.status_code}: the server points to {where}; set url to where it really is")
        content = bytearray()
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > _LARGEST_ANSWER:
                raise Deferred(f"HTTP {response.status_code}, but the answer has no end")
            if time.monotonic() > deadline:
                raise Deferred(f"the answer is not complete after {timeout_s:g} s")
    return response.status_code, bytes(content)


def _failure(status: int) -> Refused | Deferred:
    if (status >= 500 and status not in _NEVER) or status in _PASSING:
        return Deferred(f"HTTP {status}: the server cannot take it now")
    return Refused(f"HTTP {status}: {_WORDS.get(status, 'the server does not take it')}")


def _no_connection(host: str, error: httpx2.HTTPError) -> Deferred:
    cause: Any = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Deferred(f"the certificate of {host} is not trusted: {cause.verify_message}; check ca")
        if isinstance(cause, ssl.SSLError):
            return Deferred(f"no TLS with {host}: {cause.reason or 'handshake failed'}")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx2.ConnectError):
        return Deferred(f"no connection to {host}")
    return Deferred(f"{host} ended the connection or does not use HTTP")
