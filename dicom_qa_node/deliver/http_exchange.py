"""HTTP with services of a site: credentials from files, TLS, and answers that are bounded in size and in time."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx2

from dicom_qa_node.deliver.targets.base import Deferred, Refused

__all__ = ["HttpAnswer", "HttpService", "exchange", "open_client", "passing"]

LARGEST_ANSWER = 4 * 1024 * 1024
_LONGEST_SECRET = 64 * 1024
#: Temporary statuses (RFC 9110, RFC 6585).
_PASSING = frozenset({408, 421, 425, 429})
_NEVER = frozenset({501, 505, 511})


class HttpService(Protocol):
    """What the section of a service offers."""

    @property
    def url(self) -> str:
        """Its address, without credentials."""

    @property
    def user(self) -> str:
        """User of basic authentication, or empty."""

    @property
    def password_file(self) -> Path | None:
        """The file of its password."""

    @property
    def bearer_token_file(self) -> Path | None:
        """The file of a bearer token."""

    @property
    def ca(self) -> Path | None:
        """The CAs of the service's certificate."""

    @property
    def certificate(self) -> Path | None:
        """The node's client certificate."""

    @property
    def key(self) -> Path | None:
        """Its private key."""

    @property
    def timeout_s(self) -> float:
        """Longest wait for an answer."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Status, body and ETag of an answer."""

    status: int
    content: bytes
    etag: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the status is one of success."""
        return 200 <= self.status < 300


@contextmanager
def open_client(service: HttpService, accept: str, password_variable: str = "") -> Iterator[httpx2.Client]:
    """Open a client; certificates and secrets are read anew each time.

    Parameters
    ----------
    password_variable
        Environment variable with the password, where there is no file of it.

    Raises
    ------
    Deferred
        The service does not answer, is not trusted, or a file cannot be read.
    """
    host = urlsplit(service.url).netloc
    try:
        # Proxies and passwords from the environment do not concern this service.
        with httpx2.Client(
            auth=_auth(service, password_variable),
            headers={"Accept": accept, "User-Agent": "dicom-qa-node"} | _bearer(service),
            verify=_tls(service) if service.url.startswith("https:") else True,
            timeout=service.timeout_s,
            follow_redirects=False,
            trust_env=False,
        ) as client:
            yield client
    except httpx2.TimeoutException as error:
        raise Deferred(f"no answer from {host} within {service.timeout_s:g} s") from error
    except httpx2.HTTPError as error:
        raise _no_connection(host, error) from error


def exchange(
    client: httpx2.Client,
    method: str,
    url: str,
    timeout_s: float,
    headers: Mapping[str, str] | None = None,
    body: Iterator[bytes] | bytes | None = None,
    largest: int = LARGEST_ANSWER,
) -> HttpAnswer:
    """Return an answer; one that redirects is refused, one that is long or slow is deferred."""
    deadline = time.monotonic() + timeout_s
    with client.stream(method, url, headers=headers, content=body) as response:
        if response.is_redirect:
            where = urlsplit(response.headers.get("Location", "")).netloc or "another place"
            raise Refused(f"HTTP {response.status_code}: the server points to {where}; set url to where it really is")
        content = bytearray()
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > largest:
                raise Deferred(f"HTTP {response.status_code}, but the answer has no end")
            if time.monotonic() > deadline:
                raise Deferred(f"the answer is not complete after {timeout_s:g} s")
    return HttpAnswer(response.status_code, bytes(content), response.headers.get("ETag", ""))


def passing(status: int) -> bool:
    """Whether a status of failure is a temporary one."""
    return (status >= 500 and status not in _NEVER) or status in _PASSING


def _auth(service: HttpService, password_variable: str) -> httpx2.BasicAuth | None:
    if password_variable:
        secret = os.environ.get(password_variable, "")
        if not secret:
            raise Deferred(f"the environment variable {password_variable} is not set")
        return httpx2.BasicAuth(service.user, secret)
    path = service.password_file
    return None if path is None else httpx2.BasicAuth(service.user, _secret(path, "password_file"))


def _bearer(service: HttpService) -> dict[str, str]:
    path = service.bearer_token_file
    return {} if path is None else {"Authorization": f"Bearer {_secret(path, 'bearer_token_file')}"}


def _tls(service: HttpService) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=service.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if service.certificate is not None:
            context.load_cert_chain(service.certificate, service.key)
    except (OSError, ssl.SSLError) as error:
        raise Deferred(f"the files of ca, certificate and key cannot be used: {error.strerror or error}") from error
    return context


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
