"""TLS for DICOM (PS3.15 B.12, RFC 9325): contexts made from files, renewed when these change, and errors in words.

TLS 1.2 and 1.3 only, forward secrecy and authenticated encryption only, no renegotiation, no compression, no session
tickets: every handshake checks the certificates.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import re
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_qa_node.config import ClientTls, Config, DicomTarget, ServerTls
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.log import log_event

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["CIPHERS", "CallContext", "RenewedContext", "SecureSocket", "call_context", "concerns", "reason_of"]

_LOGGER = logging.getLogger(__name__)

CIPHERS = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
)
"""The suites of TLS 1.2 (RFC 9325 4.2, RFC 7905); those of TLS 1.3 are OpenSSL's, all of them of this kind."""

_LOOK_S = 1.0
_WARN_AHEAD = dt.timedelta(days=30)
_OTHERS_MAY_READ = stat.S_IROTH | stat.S_IWOTH

_CRL = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)

_WORDS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer shows no certificate",
    "WRONG_VERSION_NUMBER": "the peer does not use TLS",
    "HTTP_REQUEST": "the peer does not use TLS",
    "RECORD_LAYER_FAILURE": "the peer does not use TLS",
    "UNSUPPORTED_PROTOCOL": "the peer offers no TLS version from 1.2 on",
    "VERSION_TOO_LOW": "the peer offers no TLS version from 1.2 on",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the peer takes no TLS version from 1.2 on",
    "NO_SHARED_CIPHER": "the peer offers no cipher suite that is allowed here",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the peer wants a certificate of this node",
}


class TlsFilesProblem(Misconfigured):
    """The files of a TLS section cannot be used; the message names the file and what is wrong with it."""


class SecureSocket(ssl.SSLSocket):
    """A TLS connection that tells its context why it failed, and says good-bye when it is shut down."""

    # OpenSSL's connections must not be used by two threads at once, and an association's other thread shuts it down.
    _in_use: threading.Lock

    def do_handshake(self, block: bool = False) -> None:
        """Do the TLS handshake, within the socket's timeout in all."""
        self._in_use = threading.Lock()
        with self._told():
            super().do_handshake(block)

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - the parent's name
        """Read and decrypt (every way of receiving ends here)."""
        with self._in_use, self._told():
            return super().read(len, buffer)

    def send(self, data: Any, flags: int = 0) -> int:
        """Encrypt and send."""
        with self._in_use:
            return super().send(data, flags)

    def shutdown(self, how: int) -> None:
        """Send close_notify (RFC 8446 6.1) if that needs no waiting, then end the connection."""
        lock = getattr(self, "_in_use", None)
        if lock is not None and lock.acquire(blocking=False):
            with contextlib.suppress(OSError, ValueError):
                self.settimeout(0)
                self.unwrap()
            lock.release()
        try:
            super().shutdown(how)
        except OSError:
            # pynetdicom closes nothing that cannot be shut down.
            self.close()
            raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as error:
            if isinstance(self.context, CallContext):
                self.context.failure = reason_of(error)
            raise


class CallContext(ssl.SSLContext):
    """The context of one call of a peer; ``failure`` says why it came to nothing, empty if TLS is not the reason."""

    sslsocket_class = SecureSocket
    failure = ""


class RenewedContext:
    """The context of the node's own port; follows its files, and stays as it is while new ones cannot be used."""

    def __init__(self, settings: ServerTls, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the files.

        Raises
        ------
        Misconfigured
            They cannot be used.
        """
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._stamps = self._read_stamps()
        self._context = _server_context(settings)
        self._looked_at = clock()

    def current(self) -> ssl.SSLContext:
        """Return the context for the next connection."""
        with self._lock:
            if self._clock() - self._looked_at >= _LOOK_S:
                self._looked_at = self._clock()
                self._renew()
            return self._context

    def _renew(self) -> None:
        stamps = self._read_stamps()
        changed = [str(file) for file, stamp in stamps.items() if stamp != self._stamps[file]]
        if not changed:
            return
        self._stamps = stamps
        try:
            self._context = _server_context(self._settings)
        except Misconfigured as error:
            log_event(_LOGGER, logging.ERROR, "certificate_not_renewed", reason=f"{error}; the old one stays in use")
            return
        log_event(_LOGGER, logging.INFO, "certificate_renewed", files=", ".join(changed))

    def _read_stamps(self) -> dict[Path, object]:
        files = (self._settings.certificate, self._settings.key, self._settings.ca, self._settings.crl)
        return {file: _stamp(file) for file in files if file is not None}


def call_context(settings: ClientTls) -> CallContext:
    """Return a fresh context for one call of a peer; its files are read each time.

    Raises
    ------
    Misconfigured
        They cannot be used.
    """
    context = CallContext(ssl.PROTOCOL_TLS_CLIENT)
    _restrict(context)
    context.check_hostname = settings.check_host_name
    if settings.ca is None:
        context.load_default_certs()
    else:
        _load_ca(context, settings.ca)
    if settings.crl is not None:
        _load_crl(context, settings.crl)
    if settings.certificate is not None:
        _load_chain(context, settings.certificate, settings.key)
    return context


def reason_of(error: OSError) -> str:
    """Return in a few words why a handshake or a connection over TLS failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate is not accepted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "the peer fell silent during the TLS handshake"
    if isinstance(error, ssl.SSLEOFError | ConnectionError):
        return "the peer closed the connection during the TLS handshake"
    reason = str(getattr(error, "reason", None) or error.strerror or type(error).__name__)
    alert = re.search(r"ALERT_(\w+)$", reason)
    if reason in _WORDS:
        return _WORDS[reason]
    if alert:
        return f"the peer refuses TLS with this node: {alert[1].lower().replace('_', ' ')}"
    return f"TLS fails: {reason.lower().replace('_', ' ')}"


def concerns(config: Config, now: Callable[[], dt.datetime] = utc_now) -> list[str]:
    """Return what an administrator should know about the TLS files that the configuration names; empty if all is well.

    Files that cannot be used, keys that everyone can read, certificates that end within 30 days.
    """
    found: dict[str, None] = {}
    for settings in _sections(config):
        try:
            _server_context(settings) if isinstance(settings, ServerTls) else call_context(settings)
        except Misconfigured as error:
            found[str(error)] = None
            continue
        if settings.certificate is not None:
            found |= dict.fromkeys(_doubts(settings.certificate, settings.key, now()))
        if settings.crl is not None:
            found |= dict.fromkeys(_old_lists(settings.crl, now()))
    return list(found)


def _sections(config: Config) -> Iterator[ServerTls | ClientTls]:
    targets = [target.tls for target in config.deliver.targets if isinstance(target, DicomTarget)]
    called = [destination.tls for destination in config.query.destinations]
    peers = [peer.tls for peer in config.receive.peers]
    sections: list[ServerTls | ClientTls] = [config.receive.tls, *targets, *called, *peers]
    yield from (settings for settings in sections if settings.enabled)


def _doubts(certificate: Path, key: Path | None, now: dt.datetime) -> Iterator[str]:
    from cryptography import x509

    private = key or certificate
    if private.stat().st_mode & _OTHERS_MAY_READ:
        yield f"every user of this machine can read the private key {private}; chmod o= {private}"
    ends = min(item.not_valid_after_utc for item in x509.load_pem_x509_certificates(certificate.read_bytes()))
    if ends < now:
        yield f"the certificate {certificate} ended on {ends:%Y-%m-%d}; replace it"
    elif ends < now + _WARN_AHEAD:
        yield f"the certificate {certificate} ends on {ends:%Y-%m-%d}; replace it in time"


def _old_lists(crl: Path, now: dt.datetime) -> Iterator[str]:
    ends = [item.next_update_utc for item in _lists_in(crl) if item.next_update_utc is not None]
    if ends and min(ends) < now:
        yield f"a revocation list in {crl} ended on {min(ends):%Y-%m-%d %H:%M} UTC: no peer of its CA gets in; renew it"


def _server_context(settings: ServerTls) -> ssl.SSLContext:
    if settings.certificate is None:
        raise TlsFilesProblem("receive.tls.certificate is missing")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = SecureSocket
    _restrict(context)
    context.options |= ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    _load_chain(context, settings.certificate, settings.key)
    if settings.ca is not None:
        _load_ca(context, settings.ca)
        if settings.crl is not None:
            _load_crl(context, settings.crl)
        context.verify_mode = ssl.CERT_REQUIRED if settings.require_certificate else ssl.CERT_OPTIONAL
    return context


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_ciphers(":".join(CIPHERS))


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    def no_password() -> str:
        raise TlsFilesProblem(f"the private key {key or certificate} is encrypted; the node needs a plain one")

    for file in (certificate, key or certificate):
        _require_readable(file)
    try:
        context.load_cert_chain(certificate, key, no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsFilesProblem(f"the key {key or certificate} is not that of certificate {certificate}") from error
        words = f"{certificate} and {key or certificate} are not a certificate and key in PEM form"
        raise TlsFilesProblem(f"{words} ({error.reason or 'unreadable'})") from error


def _load_ca(context: ssl.SSLContext, ca: Path) -> None:
    _require_readable(ca)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise TlsFilesProblem(f"{ca} holds no CA certificates in PEM form") from error


def _load_crl(context: ssl.SSLContext, crl: Path) -> None:
    _require_readable(crl)
    if not _lists_in(crl):
        raise TlsFilesProblem(f"{crl} holds no certificate revocation lists in PEM form")
    try:
        context.load_verify_locations(crl)
    except ssl.SSLError as error:
        raise TlsFilesProblem(f"{crl} holds a damaged certificate revocation list") from error
    # A certificate whose CA has no list in force is refused, too (RFC 5280 6.3.3).
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _lists_in(crl: Path) -> list[x509.CertificateRevocationList]:
    from cryptography import x509

    try:
        return [x509.load_pem_x509_crl(block) for block in _CRL.findall(crl.read_bytes())]
    except ValueError as error:
        raise TlsFilesProblem(f"{crl} holds a damaged certificate revocation list") from error


def _require_readable(file: Path) -> None:
    try:
        file.open("rb").close()
    except OSError as error:
        raise TlsFilesProblem(f"{file} cannot be read: {error.strerror}") from error


def _stamp(file: Path) -> object:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
