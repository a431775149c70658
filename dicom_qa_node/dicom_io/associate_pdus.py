"""Puts A-ASSOCIATE PDUs of other implementations into the form that pynetdicom decodes.

PS3.8 asks an implementation to ignore what it does not know (9.3.1, D.2) and to test single bits and fields only, and
Orthanc and DCMTK do so; pynetdicom 3.0 aborts. What decides about an association stays as the peer sent it. Counts of
items have limits, since a megabyte of them would keep a core busy for minutes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

__all__ = ["NO_TITLE", "MalformedPdu", "tolerated"]

NO_TITLE = "(none)"
"""Stands for an AE title of spaces alone, which pynetdicom does not let through."""

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ = 0x01, 0x02, 0x03
_FIXED = 74
_APPLICATION_CONTEXT, _CONTEXT_RQ, _CONTEXT_AC, _USER_INFORMATION = 0x10, 0x20, 0x21, 0x50
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX = 0x30, 0x40
_MAXIMUM_LENGTH, _CLASS_UID, _ASYNCHRONOUS, _ROLE, _VERSION_NAME = 0x51, 0x52, 0x53, 0x54, 0x55
_EXTENDED, _COMMON_EXTENDED, _IDENTITY_RQ, _IDENTITY_AC = 0x56, 0x57, 0x58, 0x59
_ONCE = frozenset({_MAXIMUM_LENGTH, _CLASS_UID, _ASYNCHRONOUS, _VERSION_NAME, _IDENTITY_RQ, _IDENTITY_AC})
_LONGEST_VERSION_NAME = 16
_USUAL_MAXIMUM_LENGTH = 16384
_MOST_CONTEXTS, _MOST_SYNTAXES, _MOST_USER_ITEMS = 128, 64, 512
_IDENTITY_TYPES = range(1, 6)
# Of PS3.8 table 9-21: the reasons by their source.
_REJECT_REASONS = {1: {1, 2, 3, 7}, 2: {1, 2}, 3: {1, 2}}
_PERMANENT, _TRANSIENT = 1, 2


class MalformedPdu(Exception):
    """The peer's PDU cannot be taken; the text names the field, ``titles`` are its calling and called AE title."""

    def __init__(self, reason: str, titles: tuple[str, str] | None = None) -> None:
        super().__init__(reason)
        self.titles = titles


def tolerated(pdu: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Return a PDU in a form that pynetdicom takes, and what was left out or replaced, in words.

    Parameters
    ----------
    pdu
        A whole PDU of any type; only A-ASSOCIATE-RQ, -AC and -RJ are ever changed.

    Raises
    ------
    MalformedPdu
        Items do not fit their lengths, or there are too many of them.
    """
    if pdu[0] in (ASSOCIATE_RQ, ASSOCIATE_AC):
        return _associate(pdu)
    if pdu[0] == ASSOCIATE_RJ and len(pdu) == 10:
        return _rejection(pdu)
    return pdu, ()


def _associate(pdu: bytes) -> tuple[bytes, tuple[str, ...]]:
    kind = "A-ASSOCIATE-RQ" if pdu[0] == ASSOCIATE_RQ else "A-ASSOCIATE-AC"
    if len(pdu) < _FIXED:
        raise MalformedPdu(f"the {kind} is only {len(pdu)} bytes long")
    notes: list[str] = []
    called, calling = (_title(pdu[at : at + 16], name, notes) for at, name in ((10, "called"), (26, "calling")))
    titles = _text(calling), _text(called)
    try:
        items = b"".join(_items(pdu[_FIXED:], notes))
    except MalformedPdu as error:
        raise MalformedPdu(f"{kind}: {error}", titles) from None
    # Only bit 0 of the protocol version is to be tested (PS3.8 9.3.2).
    version = 1 if pdu[7] & 1 else int.from_bytes(pdu[6:8], "big")
    body = struct.pack(">HH", version, 0) + called + calling + bytes(32) + items
    return struct.pack(">BBL", pdu[0], 0, len(body)) + body, tuple(notes)


def _rejection(pdu: bytes) -> tuple[bytes, tuple[str, ...]]:
    result, source, reason = pdu[7:10]
    if result in (_PERMANENT, _TRANSIENT) and reason in _REJECT_REASONS.get(source, ()):
        return pdu, ()
    note = f"rejected with result {result}, source {source}, reason {reason}, which PS3.8 does not define"
    kept = source if source in _REJECT_REASONS else 1
    known = reason if reason in _REJECT_REASONS[kept] else 1
    return pdu[:7] + bytes([_PERMANENT if result == _PERMANENT else _TRANSIENT, kept, known]), (note,)


def _items(data: bytes, notes: list[str]) -> Iterator[bytes]:
    seen: set[int] = set()
    contexts = 0
    for item_type, value in _split(data):
        if item_type in (_CONTEXT_RQ, _CONTEXT_AC):
            contexts += 1
            if contexts > _MOST_CONTEXTS:
                raise MalformedPdu(f"it has more than {_MOST_CONTEXTS} presentation contexts")
            yield _item(item_type, _context(value, proposed=item_type == _CONTEXT_RQ))
        elif item_type not in (_APPLICATION_CONTEXT, _USER_INFORMATION):
            notes.append(f"unknown item of type {item_type:02X}H")
        elif item_type not in seen:
            seen.add(item_type)
            plain = value.rstrip(b"\0 ") if item_type == _APPLICATION_CONTEXT else _user_information(value, notes)
            yield _item(item_type, plain)
    if _USER_INFORMATION not in seen:
        notes.append("no user information")
        yield _item(_USER_INFORMATION, _user_information(b"", notes))


def _context(value: bytes, *, proposed: bool) -> bytes:
    """Return a presentation context item; a proposed one needs its syntaxes (PS3.8 table 9-13).

    pynetdicom fails over one without them, and the peer gets no answer.
    """
    items = list(_split(value[4:]))
    transfer = [name for item_type, name in items if item_type == _TRANSFER_SYNTAX]
    if len(transfer) > _MOST_SYNTAXES:
        raise MalformedPdu(f"a presentation context has more than {_MOST_SYNTAXES} transfer syntaxes")
    named = any(item_type == _ABSTRACT_SYNTAX and name for item_type, name in items) and any(transfer)
    if proposed and not named:
        raise MalformedPdu("a presentation context without a syntax")
    return value


def _user_information(data: bytes, notes: list[str]) -> bytes:
    found: list[bytes] = []
    seen: set[int] = set()
    for number, (item_type, value) in enumerate(_split(data)):
        if number >= _MOST_USER_ITEMS:
            raise MalformedPdu(f"it has more than {_MOST_USER_ITEMS} user information items")
        known = _USER_ITEMS.get(item_type)
        if known is None:
            notes.append(f"unknown user information item of type {item_type:02X}H")
            continue
        kept = None if item_type in seen and item_type in _ONCE else known(value)
        if kept is None:
            notes.append(f"user information item of type {item_type:02X}H left out")
            continue
        if kept != value and item_type == _VERSION_NAME:
            notes.append("implementation version name is not 1 to 16 characters of ASCII")
        seen.add(item_type)
        found.append(_item(item_type, kept))
    if _MAXIMUM_LENGTH not in seen:
        notes.append("no maximum length")
        found.insert(0, _item(_MAXIMUM_LENGTH, struct.pack(">L", _USUAL_MAXIMUM_LENGTH)))
    return b"".join(found)


def _whole(value: bytes) -> bytes | None:
    return value


def _of_length(length: int) -> Callable[[bytes], bytes | None]:
    return lambda value: value if len(value) == length else None


def _version_name(value: bytes) -> bytes | None:
    text = _printable(value.rstrip(b"\0 ")).strip()[:_LONGEST_VERSION_NAME].rstrip()
    return text.encode("ascii") or None


def _role(value: bytes) -> bytes | None:
    fits = len(value) >= 4 and len(value) == int.from_bytes(value[:2], "big") + 4
    return value if fits and value[-2] <= 1 and value[-1] <= 1 else None


def _with_uid(value: bytes) -> bytes | None:
    return value if len(value) >= 2 and len(value) >= int.from_bytes(value[:2], "big") + 2 else None


def _identity(value: bytes) -> bytes | None:
    """Return a user identity of a known type whose fields fit (PS3.7 D.3.3.7.1)."""
    if len(value) < 4 or value[0] not in _IDENTITY_TYPES:
        return None
    primary = int.from_bytes(value[2:4], "big")
    if len(value) < primary + 6:
        return None
    return value if len(value) == primary + 6 + int.from_bytes(value[primary + 4 : primary + 6], "big") else None


def _identity_answer(value: bytes) -> bytes | None:
    return value if len(value) >= 2 and len(value) == int.from_bytes(value[:2], "big") + 2 else None


_USER_ITEMS: dict[int, Callable[[bytes], bytes | None]] = {
    _MAXIMUM_LENGTH: _of_length(4),
    _CLASS_UID: _whole,
    _ASYNCHRONOUS: _of_length(4),
    _ROLE: _role,
    _VERSION_NAME: _version_name,
    _EXTENDED: _with_uid,
    _COMMON_EXTENDED: _with_uid,
    _IDENTITY_RQ: _identity,
    _IDENTITY_AC: _identity_answer,
}


def _split(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(data):
        if len(data) - position < 4:
            raise MalformedPdu("it ends inside the head of an item")
        item_type, _, length = struct.unpack_from(">BBH", data, position)
        position += 4
        if length > len(data) - position:
            raise MalformedPdu(f"an item of type {item_type:02X}H is longer than what holds it")
        yield item_type, data[position : position + length]
        position += length


def _item(item_type: int, value: bytes) -> bytes:
    if len(value) > 0xFFFF:
        raise MalformedPdu(f"an item of type {item_type:02X}H is too long")
    return struct.pack(">BBH", item_type, 0, len(value)) + value


def _title(field: bytes, name: str, notes: list[str]) -> bytes:
    """Return an AE title field in printable ASCII, padded with spaces."""
    text = _printable(field.partition(b"\0")[0])
    if text.encode("ascii").ljust(16) != field:
        notes.append(f"{name} AE title is not 16 characters of ASCII")
    if not text.strip():
        notes.append(f"{name} AE title is empty")
        text = NO_TITLE
    return text.encode("ascii").ljust(16)


def _printable(value: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else "?" for byte in value)


def _text(field: bytes) -> str:
    return field.decode("ascii").strip()
