"""Decides whether an association may be opened: who calls, how many are open in all processes, is there room."""

from __future__ import annotations

import fcntl
import ipaddress
import mmap
import os
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from dicom_qa_node.config import Peer, Receive
from dicom_qa_node.spool.disk_space import DiskGauge

__all__ = ["Admission", "Applicant", "ConnectionSlots", "Rejection"]

_SEAT = struct.Struct("=I?16s")
_PENDING_SEATS = 64

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ: result, source and reason of PS3.8 table 9-21; ``why`` is for the log."""

    result: int
    source: int
    reason: int
    why: str


_PERMANENT, _TRANSIENT = 1, 2
_BY_USER, _BY_PRESENTATION = 1, 3

UNKNOWN_CALLING_AE = Rejection(_PERMANENT, _BY_USER, 3, "calling AE title or host is not on the list")
WRONG_CERTIFICATE = Rejection(_PERMANENT, _BY_USER, 3, "the peer did not call over TLS with the certificate it must")
UNKNOWN_CALLED_AE = Rejection(_PERMANENT, _BY_USER, 7, "called AE title is not ours")
CONGESTED = Rejection(_TRANSIENT, _BY_PRESENTATION, 1, "the disk of the spool has reached its watermark")
TOO_MANY = Rejection(_TRANSIENT, _BY_PRESENTATION, 2, "too many associations")


@dataclass(frozen=True, slots=True)
class Applicant:
    """A peer that asks for an association.

    ``seat`` is that of its connection, ``certificate`` the SHA-256 of what it showed over TLS, empty without.
    """

    calling_ae: str
    called_ae: str
    host: str
    seat: int
    certificate: str = ""


class ConnectionSlots:
    """The open connections of all receiver processes, in memory that they share.

    A seat is taken when a connection is accepted and counts as an association once it is admitted. The lock
    is a record lock, which the kernel releases when its holder dies; the parent then clears the dead one's seats.
    """

    def __init__(self, max_associations: int) -> None:
        self._seats = max_associations + _PENDING_SEATS
        self._table = mmap.mmap(-1, self._seats * _SEAT.size)
        self._descriptor = os.memfd_create("seats", os.MFD_CLOEXEC)
        self._thread_lock = threading.Lock()

    def take(self) -> int | None:
        """Take a free seat for a connection of this process; None when even probes fill every seat."""
        with self._locked():
            for seat, (pid, _, _) in enumerate(_SEAT.iter_unpack(self._table)):
                if not pid:
                    _SEAT.pack_into(self._table, seat * _SEAT.size, os.getpid(), False, b"")
                    return seat
        return None

    def admit(self, seat: int, calling_ae: str, *, limit: int, peer_limit: int | None) -> bool:
        """Count a connection as an association unless a limit is reached."""
        name = calling_ae.encode("ascii", "replace")[:16].ljust(16, b"\0")
        with self._locked():
            admitted = [ae for pid, counts, ae in _SEAT.iter_unpack(self._table) if pid and counts]
            if len(admitted) >= limit or (peer_limit is not None and admitted.count(name) >= peer_limit):
                return False
            _SEAT.pack_into(self._table, seat * _SEAT.size, os.getpid(), True, name)
            return True

    def leave(self, seat: int) -> None:
        """Give a seat back."""
        with self._locked():
            _SEAT.pack_into(self._table, seat * _SEAT.size, 0, False, b"")

    def clear(self, pid: int) -> None:
        """Give back every seat of a process that died."""
        with self._locked():
            for seat, (owner, _, _) in enumerate(_SEAT.iter_unpack(self._table)):
                if owner == pid:
                    _SEAT.pack_into(self._table, seat * _SEAT.size, 0, False, b"")

    def by_process(self) -> Counter[int]:
        """Return how many connections each process holds."""
        return Counter(pid for pid, _, _ in _SEAT.iter_unpack(self._table) if pid)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._thread_lock:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN)


class Admission:
    """The rules of one receiver."""

    def __init__(self, settings: Receive, ae_title: str, seats: ConnectionSlots, gauge: DiskGauge) -> None:
        self._settings = settings
        self._ae_title = ae_title
        self._seats = seats
        self._gauge = gauge
        self._peers = {peer.ae_title.strip(): (peer, _networks(peer)) for peer in settings.peers}

    def decide(self, applicant: Applicant) -> Rejection | None:
        """Return why the applicant is refused, or None: then its seat counts as an association."""
        if self._settings.require_called_ae and applicant.called_ae != self._ae_title.strip():
            return UNKNOWN_CALLED_AE
        peer, networks = self._peers.get(applicant.calling_ae, (None, ()))
        if not self._settings.allow_unknown_peers and (peer is None or not _allowed(applicant.host, networks)):
            return UNKNOWN_CALLING_AE
        if peer is not None and peer.certificate_sha256 not in ("", applicant.certificate):
            return WRONG_CERTIFICATE
        if not self._gauge.has_room():
            return CONGESTED
        limit = self._settings.max_associations
        peer_limit = peer.max_associations if peer else None
        if not self._seats.admit(applicant.seat, applicant.calling_ae, limit=limit, peer_limit=peer_limit):
            return TOO_MANY
        return None


def _networks(peer: Peer) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(host, strict=False) for host in peer.hosts)


def _allowed(host: str, networks: Sequence[Network]) -> bool:
    address: Address = ipaddress.ip_address(host)
    mapped = getattr(address, "ipv4_mapped", None)
    return not networks or any((mapped or address) in network for network in networks)
