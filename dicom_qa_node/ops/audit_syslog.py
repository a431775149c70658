"""Sends the audit log to a syslog server (RFC 5424) as DICOM audit messages, over TLS (RFC 5425), TCP or UDP.

The database is the queue: a cursor says up to which row the server has everything. It moves on only after the server's
machine has acknowledged every byte, so that nothing is lost while it is away; after a broken connection rows may come
twice. UDP knows no such word: there the cursor follows what was sent.
Nothing waits for this: it runs as a periodic task, and a failure shows in ``health`` and on the node page.
"""

from __future__ import annotations

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

from dicom_qa_node.config import Config
from dicom_qa_node.config.web import AuditSyslog
from dicom_qa_node.errors import Misconfigured, Transient
from dicom_qa_node.ops.audit_message import audit_message
from dicom_qa_node.store import Audit, Database
from dicom_qa_node.store.audit import AuditEntry

__all__ = ["CURSOR", "SyslogSender", "syslog_line"]

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
