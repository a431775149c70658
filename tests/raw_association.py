"""Association PDUs and messages byte by byte, to send what no library does."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence

CT, VERIFICATION = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
DICOM_CONTEXT = "1.2.840.10008.3.1.1.1"


def item(kind: int, value: bytes) -> bytes:
    """Return an item of an A-ASSOCIATE PDU."""
    return struct.pack(">BBH", kind, 0, len(value)) + value


def context(number: int, abstract: str, syntaxes: Sequence[str], kind: int = 0x20) -> bytes:
    """Return a presentation context item."""
    names = b"".join(item(0x40, syntax.encode()) for syntax in syntaxes)
    return item(kind, struct.pack(">BBBB", number, 0, 0, 0) + item(0x30, abstract.encode()) + names)


def user_information(
    *extra: bytes, maximum: int | None = 16384, class_uid: str | None = "1.2.3.4", version: bytes | None = b"RAW"
) -> bytes:
    """Return a user information item; None leaves an item out."""
    length = b"" if maximum is None else item(0x51, struct.pack(">L", maximum))
    implementation = b"" if class_uid is None else item(0x52, class_uid.encode())
    name = b"" if version is None else item(0x55, version)
    return item(0x50, length + implementation + b"".join(extra) + name)


def title(text: bytes | str) -> bytes:
    """Return an AE title field."""
    return text if isinstance(text, bytes) else text.encode("ascii").ljust(16)


def request(
    *,
    called: bytes | str = "DICOMQA",
    calling: bytes | str = "RAW",
    version: int = 1,
    application_context: str | None = DICOM_CONTEXT,
    contexts: Iterable[bytes] = (context(1, VERIFICATION, ["1.2.840.10008.1.2"]),),
    user: bytes | None = None,
    kind: int = 1,
) -> bytes:
    """Return an A-ASSOCIATE-RQ, or an A-ASSOCIATE-AC with ``kind`` 2."""
    name = b"" if application_context is None else item(0x10, application_context.encode())
    body = struct.pack(">HH", version, 0) + title(called) + title(calling) + bytes(32) + name + b"".join(contexts)
    body += user_information() if user is None else user
    return struct.pack(">BBL", kind, 0, len(body)) + body


def exactly(connection: socket.socket, count: int) -> bytes:
    """Read so many bytes."""
    found = b""
    while len(found) < count:
        piece = connection.recv(count - len(found))
        if not piece:
            raise EOFError(f"closed after {len(found)} bytes")
        found += piece
    return found


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """Read one PDU; return its type and what follows the length."""
    kind, _, length = struct.unpack(">BBL", exactly(connection, 6))
    return kind, exactly(connection, length)


def store_request(uid: str) -> bytes:
    """Return a P-DATA-TF PDU with a C-STORE-RQ for a CT image in context 1."""
    elements = {
        0x0002: CT.encode() + b"\0", 0x0100: b"\1\0", 0x0110: b"\1\0", 0x0700: b"\0\0", 0x0800: b"\0\0",
        0x1000: uid.encode() + b"\0" * (len(uid) % 2),
    }  # fmt: skip
    body = b"".join(struct.pack("<HHL", 0, tag, len(value)) + value for tag, value in elements.items())
    return p_data(3, struct.pack("<HHLL", 0, 0, 4, len(body)) + body)


def p_data(control: int, value: bytes) -> bytes:
    """Return a P-DATA-TF PDU with one presentation data value of context 1."""
    return struct.pack(">BBLLBB", 4, 0, len(value) + 6, len(value) + 2, 1, control) + value


def send_data_set(connection: socket.socket, data: bytes, step: int = 1 << 18) -> None:
    """Send a data set in pieces."""
    for start in range(0, len(data), step):
        connection.sendall(p_data(2 if start + step >= len(data) else 0, data[start : start + step]))


def status_of(pdu: bytes) -> int:
    """Return the Status of a response."""
    at = pdu.find(struct.pack("<HHL", 0, 0x900, 2))
    return int(struct.unpack_from("<H", pdu, at + 8)[0])
