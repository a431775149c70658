"""Association dialogues as real clients hold them, recorded byte by byte, and damage to them."""

from __future__ import annotations

import random
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

__all__ = ["Dialogue", "Ending", "damaged", "play", "recorder"]

_HEAD = struct.Struct(">BBL")
_ANSWER_WAIT_S = 0.4
_EXTREMES = (0, 1, 2, 5, 0x7F, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)


@dataclass(frozen=True)
class Dialogue:
    """What a client sends: PDUs in turns; after each turn it waits for the node's answer.

    ``ending`` says how it leaves, ``dribbled`` how many bytes of each turn go out one by one.
    """

    name: str
    turns: tuple[tuple[bytes, ...], ...]
    ending: str = "wait"
    dribbled: int = 0
    damage: tuple[str, ...] = ()


@dataclass
class Ending:
    """How a dialogue ended: seconds until the node closed after the last byte, and what the node said."""

    closed_after_s: float
    said: bytes = b""
    closed: bool = True


@dataclass
class _Tape:
    turns: list[list[bytes]] = field(default_factory=lambda: [[]])
    _rest: bytes = b""

    def out(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= _HEAD.size:
            end = _HEAD.size + _HEAD.unpack_from(self._rest)[2]
            if len(self._rest) < end:
                return
            self.turns[-1].append(self._rest[:end])
            self._rest = self._rest[end:]

    def back(self) -> None:
        if self.turns[-1]:
            self.turns.append([])


@contextmanager
def recorder(port: int) -> Iterator[tuple[int, Callable[[str], Dialogue]]]:
    """Pass one connection on to ``port``; yields the port to call and a function that returns the dialogue."""
    tape = _Tape()
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=_pass_on, args=(listener, port, tape))
    thread.start()

    def recorded(name: str) -> Dialogue:
        thread.join(20)
        return Dialogue(name, tuple(tuple(turn) for turn in tape.turns if turn))

    try:
        yield listener.getsockname()[1], recorded
    finally:
        thread.join(20)
        listener.close()


def _pass_on(listener: socket.socket, port: int, tape: _Tape) -> None:
    client, _ = listener.accept()
    with client, socket.create_connection(("127.0.0.1", port)) as node:
        while True:
            ready, _, _ = select.select([client, node], [], [], 30)
            if not ready:
                return
            for source in ready:
                try:
                    data = source.recv(65536)
                except ConnectionResetError:
                    return
                if not data:
                    return
                if source is client:
                    tape.out(data)
                    node.sendall(data)
                else:
                    tape.back()
                    client.sendall(data)


def damaged(dialogue: Dialogue, chance: random.Random) -> Dialogue:
    """Return the dialogue with one to three kinds of damage."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        kind = chance.choice(_KINDS)
        dialogue = replace(kind(dialogue, chance), damage=(*dialogue.damage, kind.__name__.strip("_")))
    return dialogue


def _with_pdu(dialogue: Dialogue, chance: random.Random, change: Callable[[bytes], list[bytes]]) -> Dialogue:
    places = [(t, p) for t, turn in enumerate(dialogue.turns) for p in range(len(turn)) if turn[p]]
    if not places:
        return dialogue
    chosen, at = chance.choice(places)
    turn = dialogue.turns[chosen]
    new = (*turn[:at], *change(turn[at]), *turn[at + 1 :])
    return replace(dialogue, turns=(*dialogue.turns[:chosen], new, *dialogue.turns[chosen + 1 :]))


def _flip_bytes(dialogue: Dialogue, chance: random.Random) -> Dialogue:
    def change(pdu: bytes) -> list[bytes]:
        changed = bytearray(pdu)
        for _ in range(chance.choice((1, 3, 20))):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        return [bytes(changed)]

    return _with_pdu(dialogue, chance, change)


def _pdu_length(dialogue: Dialogue, chance: random.Random) -> Dialogue:
    def change(pdu: bytes) -> list[bytes]:
        length = chance.choice((*_EXTREMES, len(pdu) - 7, len(pdu) - 5, len(pdu) + 100))
        return [pdu[:2] + struct.pack(">L", length & 0xFFFFFFFF) + pdu[6:]]

    return _with_pdu(dialogue, chance, change)


def _inner_length(dialogue: Dialogue, chance: random.Random) -> Dialogue:
    """Change a length of an item, of a presentation data value, or of an element."""

    def change(pdu: bytes) -> list[bytes]:
        size, order = chance.choice(((4, ">"), (2, ">"), (4, "<"), (2, "<")))
        at = chance.choice((6, 18, 22, 74, 76, chance.randrange(6, max(7, len(pdu)))))
        value = chance.choice(_EXTREMES) & (0xFFFFFFFF if size == 4 else 0xFFFF)
        new = struct.pack(order + ("L" if size == 4 else "H"), value)
        return [(pdu[:at] + new + pdu[at + size :])[: len(pdu)]]

    return _with_pdu(dialogue, chance, change)


def _pdu_type(dialogue: Dialogue, chance: random.Random) -> Dialogue:
    kind = chance.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 0x16, 0x47, 0xFF))
    return _with_pdu(dialogue, chance, lambda pdu: [bytes([kind]) + pdu[1:]])


def _truncate(dialogue: Dialogue, chance: random.Random) -> Dialogue:
    cut = _with_pdu(dialogue, chance, lambda pdu: [pdu[: chance.randrange(len(pdu))]])
    return replace(cut, ending=chance.choice(("wait", "close", "half-close", "reset")))


def _drop(dialogue: Dialogue, chance: random.Random) -> Dialogue:
    return _with_pdu(dialogue, chance, lambda pdu: [])


def _repeat(dialogue: Dialogue, chance: random.Random) -> Dialogue:
    times = chance.choice((2, 2, 30))
    return _with_pdu(dialogue, chance, lambda pdu: [pdu] * times)


def _shuffle(dialogue: Dialogue, chance: random.Random) -> Dialogue:
    pdus = [pdu for turn in dialogue.turns for pdu in turn]
    chance.shuffle(pdus)
    return replace(dialogue, turns=tuple((pdu,) for pdu in pdus))


def _impatient(dialogue: Dialogue, chance: random.Random) -> Dialogue:
    """Send everything at once, without waiting for an answer."""
    return replace(dialogue, turns=(tuple(pdu for turn in dialogue.turns for pdu in turn),))


def _garbage(dialogue: Dialogue, chance: random.Random) -> Dialogue:
    return _with_pdu(dialogue, chance, lambda pdu: [pdu, chance.randbytes(chance.choice((1, 7, 500)))])


def _oversize(dialogue: Dialogue, chance: random.Random) -> Dialogue:
    def change(pdu: bytes) -> list[bytes]:
        more = bytes(chance.choice((70_000, 1_100_000)))
        return [pdu[:2] + struct.pack(">L", len(pdu) - 6 + len(more)) + pdu[6:] + more]

    return _with_pdu(dialogue, chance, change)


def _dribble(dialogue: Dialogue, chance: random.Random) -> Dialogue:
    return replace(dialogue, dribbled=chance.choice((5, 40)))


def _leave(dialogue: Dialogue, chance: random.Random) -> Dialogue:
    kept = dialogue.turns[: chance.randrange(len(dialogue.turns) + 1)]
    return replace(dialogue, turns=kept, ending=chance.choice(("close", "half-close", "reset", "wait")))


_KINDS = (
    _flip_bytes, _flip_bytes, _inner_length, _inner_length, _pdu_length, _pdu_type, _truncate, _drop, _repeat,
    _shuffle, _impatient, _garbage, _oversize, _dribble, _leave,
)  # fmt: skip


def play(dialogue: Dialogue, port: int, context: ssl.SSLContext | None, deadline_s: float) -> Ending:
    """Hold the dialogue with the node, then wait until the node ends the connection."""
    connection = socket.create_connection(("127.0.0.1", port), deadline_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    said = b""
    try:
        if context is not None:
            connection = context.wrap_socket(connection)
        for turn in dialogue.turns:
            _send(connection, b"".join(turn), dialogue.dribbled)
            said += _heard(connection, _ANSWER_WAIT_S)
        if dialogue.ending == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if dialogue.ending in ("close", "reset"):
            return Ending(0.0, said)
        if dialogue.ending == "half-close" and context is None:
            connection.shutdown(socket.SHUT_WR)
    except OSError:
        # The node has ended it, which is its right.
        return Ending(0.0, said)
    else:
        return _until_closed(connection, said, deadline_s)
    finally:
        connection.close()


def _send(connection: socket.socket, data: bytes, dribbled: int) -> None:
    for at in range(min(dribbled, len(data))):
        connection.sendall(data[at : at + 1])
        time.sleep(0.005)
    connection.sendall(data[dribbled:])


def _heard(connection: socket.socket, wait_s: float) -> bytes:
    connection.settimeout(wait_s)
    with suppress(TimeoutError):
        data = connection.recv(65536)
        if not data:
            raise ConnectionResetError
        return data
    return b""


def _until_closed(connection: socket.socket, said: bytes, deadline_s: float) -> Ending:
    began = time.monotonic()
    while (left := began + deadline_s - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            data = connection.recv(65536)
        except TimeoutError:
            break
        except OSError:
            data = b""
        if not data:
            return Ending(time.monotonic() - began, said)
        said += data
    return Ending(deadline_s, said, closed=False)
