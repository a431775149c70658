"""A storage SCP made of bytes, to answer as libraries do not."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests import raw_association as raw

__all__ = ["Odd", "RawArchive", "command_set"]

Elements = dict[int, bytes]


def _first(_abstract: str, syntaxes: Sequence[str]) -> str | None:
    return syntaxes[0]


def _as_they_are(elements: Elements) -> Elements:
    return elements


@dataclass(frozen=True)
class Odd:
    """How an archive answers; the defaults are those of an ordinary one.

    ``accept`` returns the transfer syntax of a context or None; ``refused_syntax`` is what a refused context names,
    None for no item at all. ``ending`` is a moment at which it breaks off, ``how`` the way.
    """

    user: bytes = field(default_factory=raw.user_information)
    titles: tuple[bytes, bytes] | None = None
    accept: Callable[[str, Sequence[str]], str | None] = _first
    refused_syntax: bytes | None = b"1.2.840.10008.1.2"
    rejection: tuple[int, int, int] | None = None
    status: int | None = 0
    change: Callable[[Elements], Elements] = _as_they_are
    group_length: bool = True
    step: int = 1 << 20
    fragment: int = 1 << 20
    ending: str = ""
    how: str = "close"


def command_set(elements: Elements, *, group_length: bool = True) -> bytes:
    """Return an encoded command set."""
    body = b"".join(struct.pack("<HHL", 0, number, len(value)) + value for number, value in sorted(elements.items()))
    return (struct.pack("<HHLL", 0, 0, 4, len(body)) if group_length else b"") + body


class RawArchive(threading.Thread):
    """Serves one association; ``stored`` holds the abstract and transfer syntax of each object."""

    def __init__(self, odd: Odd) -> None:
        super().__init__(daemon=True)
        self._odd = odd
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.stored: list[tuple[str, str]] = []
        self.left = threading.Event()

    def run(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(30)
        with self._listener, connection:
            try:
                self._serve(connection)
            except (OSError, EOFError):
                return

    def _serve(self, connection: socket.socket) -> None:
        _, request = raw.answer(connection)
        if self._odd.rejection is not None:
            connection.sendall(struct.pack(">BBLBBBB", 3, 0, 4, 0, *self._odd.rejection))
            self.left.wait(0.5)
            return
        if self._breaks_off(connection, "association"):
            return
        contexts = self._accept(connection, request)
        command = b""
        while True:
            kind, body = raw.answer(connection)
            if kind == 5:
                if not self._breaks_off(connection, "release"):
                    connection.sendall(struct.pack(">BBLL", 6, 0, 4, 0))
                return
            if kind != 4:
                return
            length, context, control = struct.unpack_from(">LBB", body)
            if control & 1:
                command += body[6 : 4 + length]
            elif control & 2:
                self.stored.append(contexts[context])
                if self._breaks_off(connection, "store"):
                    return
                self._answer(connection, context, command)
                command = b""

    def _accept(self, connection: socket.socket, request: bytes) -> dict[int, tuple[str, str]]:
        odd, answers, accepted = self._odd, [], {}
        for number, abstract, syntaxes in _proposed(request):
            syntax = odd.accept(abstract, syntaxes)
            if syntax is not None:
                accepted[number] = (abstract, syntax)
                answers.append(_result(number, 0, syntax.encode()))
            elif odd.refused_syntax is not None:
                answers.append(_result(number, 3, odd.refused_syntax))
        called, calling = odd.titles or (request[4:20], request[20:36])
        pdu = raw.request(kind=2, called=called, calling=calling, contexts=answers, user=odd.user)
        self._send(connection, pdu)
        return accepted

    def _answer(self, connection: socket.socket, context: int, command: bytes) -> None:
        asked = _elements(command)
        elements = {
            0x0002: asked[0x0002], 0x0100: b"\x01\x80", 0x0120: asked[0x0110], 0x0800: b"\x01\x01",
            0x1000: asked[0x1000],
        }  # fmt: skip
        if self._odd.status is not None:
            elements[0x0900] = struct.pack("<H", self._odd.status)
        encoded = command_set(self._odd.change(elements), group_length=self._odd.group_length)
        for start in range(0, len(encoded), self._odd.fragment):
            piece = encoded[start : start + self._odd.fragment]
            control = 3 if start + self._odd.fragment >= len(encoded) else 1
            head = struct.pack(">BBLLBB", 4, 0, len(piece) + 6, len(piece) + 2, context, control)
            self._send(connection, head + piece)

    def _send(self, connection: socket.socket, data: bytes) -> None:
        for start in range(0, len(data), self._odd.step):
            connection.sendall(data[start : start + self._odd.step])

    def _breaks_off(self, connection: socket.socket, moment: str) -> bool:
        if self._odd.ending != moment:
            return False
        if self._odd.how == "abort":
            connection.sendall(struct.pack(">BBLBBBB", 7, 0, 4, 0, 0, 2, 0))
        if self._odd.how == "silence":
            # The node leaves.
            connection.recv(1 << 20)
        return True


def _result(number: int, result: int, syntax: bytes) -> bytes:
    name = raw.item(0x40, syntax) if syntax != b"none" else b""
    return raw.item(0x21, struct.pack(">BBBB", number, 0, result, 0) + name)


def _proposed(request: bytes) -> list[tuple[int, str, list[str]]]:
    found = []
    for kind, value in _items(request[68:]):
        if kind == 0x20:
            inner: list[tuple[int, bytes]] = _items(value[4:])
            names = [(item, name.decode("ascii")) for item, name in inner]
            abstract = next(name for item, name in names if item == 0x30)
            found.append((value[0], abstract, [name for item, name in names if item == 0x40]))
    return found


def _items(data: bytes) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        kind, _, length = struct.unpack_from(">BBH", data, at)
        found.append((kind, data[at + 4 : at + 4 + length]))
        at += 4 + length
    return found


def _elements(command: bytes) -> dict[int, Any]:
    found, at = {}, 0
    while at < len(command):
        _, number, length = struct.unpack_from("<HHL", command, at)
        found[number] = command[at + 8 : at + 8 + length]
        at += 8 + length
    return found
