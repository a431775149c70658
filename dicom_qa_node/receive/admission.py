"""Decides whether an association may be opened: who calls, how many are open in all processes, is there room."""

from __future__ import annotations

import fcntl
import ipaddress
import mmap
import os
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dicom_qa_node.config import Peer, Receive
from dicom_qa_node.dicom_io.associate_pdus import NO_TITLE
from dicom_qa_node.spool.disk_space import DiskGauge

__all__ = ["Admission", "Applicant", "ConnectionSlots", "Quota", "Rejection"]

# Process, state, known address, AE title, address, when it was taken by the steady clock of the host.
_SEAT = struct.Struct("=IB?16s16sd")
_FREE, _PENDING, _ADMITTED, _EVICTED = range(4)
_PENDING_SEATS = 64
_PENDING_OF_ADDRESS = 16
# Seats of connections that were told to go and have not gone yet.
_SPARE_SEATS = 64

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

_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

UNKNOWN_APPLICATION_CONTEXT = Rejection(_PERMANENT, _BY_USER, 2, "application context name is not that of DICOM")
UNKNOWN_CALLING_AE = Rejection(_PERMANENT, _BY_USER, 3, "calling AE title or host is not on the list")
WRONG_CERTIFICATE = Rejection(_PERMANENT, _BY_USER, 3, "the peer did not call over TLS with the certificate it must")
UNKNOWN_CALLED_AE = Rejection(_PERMANENT, _BY_USER, 7, "called AE title is not ours")
CONGESTED = Rejection(_TRANSIENT, _BY_PRESENTATION, 1, "the disk of the spool has reached its watermark")
TOO_MANY = Rejection(_TRANSIENT, _BY_PRESENTATION, 2, "too many associations")


@dataclass(frozen=True, slots=True)
class Applicant:
    """A peer that asks for an association.

    ``seat`` is that of its connection, ``certificate`` the SHA-256 of what it showed over TLS, empty without;
    ``application_context`` is the name that its request gives (PS3.8 9.3.2.1).
    """

    calling_ae: str
    called_ae: str
    host: str
    seat: int
    certificate: str = ""
    application_context: str = _APPLICATION_CONTEXT


@dataclass(frozen=True, slots=True)
class Quota:
    """How many associations there may be at once: in all, of the AE title, from the address, and of unlisted callers.

    ``of_unlisted`` is None for a caller that is listed.
    """

    in_all: int
    of_title: int
    from_address: int
    of_unlisted: int | None = None


class ConnectionSlots:
    """The open connections of all receiver processes, in memory that they share.

    A seat is taken when the association request of a connection begins to arrive, and counts as an association once it
    is admitted. A listed address that finds no seat gets that of the oldest unknown peer without an association.
    The lock is a record lock, which the kernel releases when its holder dies; the parent then clears the dead one's
    seats.
    """

    def __init__(self, max_associations: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._connection_slots = max_associations + _PENDING_SEATS + _SPARE_SEATS
        self._table = mmap.mmap(-1, self._connection_slots * _SEAT.size)
        self._descriptor = os.memfd_create("seats", os.MFD_CLOEXEC)
        self._thread_lock = threading.Lock()
        self._clock = clock

    def take(self, address: str = "", *, known: bool = False) -> int | None:
        """Take a seat for a connection of this process.

        Parameters
        ----------
        address
            Where it comes from.
        known
            Whether a listed peer may call from there.

        Returns
        -------
        int or None
            None where too many connections wait for their association, from this address or in all.
        """
        packed = _packed(address)
        with self._locked():
            connection_slots = list(_SEAT.iter_unpack(self._table))
            free = next((seat for seat, (_, state, *_) in enumerate(connection_slots) if state == _FREE), None)
            if free is None:
                return None
            pending = [(row[5], seat, row) for seat, row in enumerate(connection_slots) if row[1] == _PENDING]
            if sum(row[4] == packed for _, _, row in pending) >= _PENDING_OF_ADDRESS:
                return None
            if len(pending) >= _PENDING_SEATS and not (known and self._evict(pending)):
                return None
            self._write(free, os.getpid(), _PENDING, known, b"", packed, self._clock())
            return free

    def admit(self, seat: int, calling_ae: str, quota: Quota) -> bool:
        """Count a connection as an association unless a quota is used up."""
        name = calling_ae.encode("ascii", "replace")[:16].ljust(16, b"\0")
        listed = quota.of_unlisted is None
        with self._locked():
            own = _SEAT.unpack_from(self._table, seat * _SEAT.size)
            if own[1] == _EVICTED:
                return False
            admitted = [row for row in _SEAT.iter_unpack(self._table) if row[1] == _ADMITTED]
            full = (
                len(admitted) >= quota.in_all
                or sum(row[3] == name and row[2] == listed for row in admitted) >= quota.of_title
                or sum(row[3:5] == (name, own[4]) if listed else row[4] == own[4] for row in admitted)
                >= quota.from_address
                or (quota.of_unlisted is not None and sum(not row[2] for row in admitted) >= quota.of_unlisted)
            )
            if full:
                return False
            self._write(seat, own[0], _ADMITTED, listed, name, own[4], own[5])
            return True

    def leave(self, seat: int) -> None:
        """Give a seat back."""
        with self._locked():
            self._write(seat, 0, _FREE, False, b"", b"", 0.0)

    def clear(self, pid: int) -> None:
        """Give back every seat of a process that died."""
        with self._locked():
            for seat, (owner, *_) in enumerate(_SEAT.iter_unpack(self._table)):
                if owner == pid:
                    self._write(seat, 0, _FREE, False, b"", b"", 0.0)

    def evicted(self) -> list[int]:
        """Return the seats of this process whose connections are to be closed."""
        own = os.getpid()
        rows = enumerate(_SEAT.iter_unpack(self._table))
        return [seat for seat, (pid, state, *_) in rows if state == _EVICTED and pid == own]

    def by_process(self) -> Counter[int]:
        """Return how many connections each process holds."""
        return Counter(pid for pid, *_ in _SEAT.iter_unpack(self._table) if pid)

    def _evict(self, pending: Sequence[tuple[float, int, tuple[Any, ...]]]) -> bool:
        """Mark the seat that an unknown peer has held the longest; False if there is none."""
        unknown = [(taken, seat, row) for taken, seat, row in pending if not row[2]]
        if not unknown:
            return False
        _, seat, row = min(unknown)
        self._write(seat, row[0], _EVICTED, *row[2:])
        return True

    def _write(self, seat: int, *values: Any) -> None:
        _SEAT.pack_into(self._table, seat * _SEAT.size, *values)

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

    def __init__(self, settings: Receive, ae_title: str, connection_slots: ConnectionSlots, gauge: DiskGauge) -> None:
        self._settings = settings
        self._ae_title = ae_title
        self._connection_slots = connection_slots
        self._gauge = gauge
        self._peers = {peer.ae_title.strip(): (peer, _networks(peer)) for peer in settings.peers}
        self._networks = tuple(network for _, networks in self._peers.values() for network in networks)

    def knows(self, host: str) -> bool:
        """Return whether a peer is listed with this address."""
        return bool(self._networks) and _allowed(host, self._networks)

    def decide(self, applicant: Applicant) -> Rejection | None:
        """Return why the applicant is refused, or None: then its seat counts as an association."""
        if applicant.application_context != _APPLICATION_CONTEXT:
            return UNKNOWN_APPLICATION_CONTEXT
        if applicant.called_ae == NO_TITLE:
            return UNKNOWN_CALLED_AE
        if applicant.calling_ae == NO_TITLE:
            return UNKNOWN_CALLING_AE
        if self._settings.require_called_ae and applicant.called_ae != self._ae_title.strip():
            return UNKNOWN_CALLED_AE
        peer, networks = self._peers.get(applicant.calling_ae, (None, ()))
        listed = peer is not None and _allowed(applicant.host, networks)
        if not self._settings.allow_unknown_peers and not listed:
            return UNKNOWN_CALLING_AE
        if peer is not None and peer.certificate_sha256 not in ("", applicant.certificate):
            return WRONG_CERTIFICATE
        if not self._gauge.has_room():
            return CONGESTED
        quota = self._quota_of_listed(peer) if peer is not None and listed else self._quota_of_unlisted()
        return None if self._connection_slots.admit(applicant.seat, applicant.calling_ae, quota) else TOO_MANY

    def _quota_of_listed(self, peer: Peer) -> Quota:
        # The title of a peer without addresses can be used from anywhere: no single address gets all of its seats.
        most = peer.max_associations
        return Quota(self._settings.max_associations, most, most if peer.hosts else _most_of(most))

    def _quota_of_unlisted(self) -> Quota:
        in_all = self._settings.max_associations
        if not self._peers:
            return Quota(in_all, _most_of(in_all), _most_of(in_all), in_all)
        unlisted = self._settings.unlisted_associations
        half = -(-unlisted // 2)
        return Quota(in_all, half, _most_of(unlisted), min(unlisted, in_all - 1))


def _most_of(limit: int) -> int:
    """Return three quarters, rounded up."""
    return -(-3 * limit // 4)


def _networks(peer: Peer) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(host, strict=False) for host in peer.hosts)


def _address_of(host: str) -> Address:
    address: Address = ipaddress.ip_address(host.partition("%")[0])
    mapped: Address | None = getattr(address, "ipv4_mapped", None)
    return mapped or address


def _allowed(host: str, networks: Sequence[Network]) -> bool:
    return not networks or any(_address_of(host) in network for network in networks)


def _packed(host: str) -> bytes:
    return _address_of(host).packed.ljust(16, b"\0") if host else b""
