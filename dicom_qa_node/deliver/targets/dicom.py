"""The DICOM side of delivery: C-STORE and C-ECHO as SCU (PS3.4 annexes A and B), and what the answers mean."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from dicom_qa_node import config
from dicom_qa_node.deliver.targets.base import Answer, Deferred, DeliveryItem, Refused, classes_of
from dicom_qa_node.dicom_io.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_qa_node.dicom_io.pydicom_patches import dcmread
from dicom_qa_node.dicom_io.pynetdicom_patches import MOST_PDU_BYTES, limit_received, pause_for_certain
from dicom_qa_node.dicom_io.tls import CallContext, call_context
from dicom_qa_node.domain.errors import Misconfigured

__all__ = [
    "MAX_CONTEXTS",
    "FileKind",
    "Pacs",
    "Peer",
    "associate",
    "contexts_for",
    "file_kind",
    "kinds_of",
    "open_target",
    "peer_of",
    "store",
    "store_one_of",
]

MAX_CONTEXTS = 128
_VERIFICATION = "1.2.840.10008.1.1"
_REJECTED_PERMANENT = 1

# A receiver that has the instance, or took it with remarks, has it (PS3.4 table B.2-1, PS3.7 annex C).
_ACCEPTED = {
    0x0000: "Success",
    0x0107: "Warning, attribute list error",
    0x0111: "Duplicate SOP instance, the target has it",
    0x0116: "Warning, attribute value out of range",
    0xB000: "Warning, coercion of data elements",
    0xB006: "Warning, elements discarded",
    0xB007: "Warning, data set does not match SOP class",
}
# The classes of warnings of PS3.7 annex C: the instance was stored, whatever the rest of the code means.
_WARNINGS = frozenset({0x0001, *range(0xB000, 0xC000)})
_NOT_NOW = {
    0x0110: "Processing failure",
    0x0213: "Resource limitation",
}
_OUT_OF_RESOURCES = range(0xA700, 0xA800)
# How long an abort may take to be said.
_LAST_WORDS_S = 1.0
_CLASS_NOT_SUPPORTED = "0x0122"


@dataclass(frozen=True, slots=True)
class Peer:
    """An application entity to call."""

    host: str
    port: int
    called_ae: str
    calling_ae: str
    timeout_s: float = 30.0
    tls: config.ClientTls | None = None

    def __str__(self) -> str:
        """Return how the peer is named in messages."""
        return f"{self.called_ae} at {self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class FileKind:
    """What must be negotiated to send a file."""

    sop_class: UID
    transfer_syntax: UID


class Pacs:
    """A PACS or archive; one association per report, so that an idle node holds none open."""

    def __init__(self, peer: Peer, sop_class: str = "auto") -> None:
        self._peer = peer
        self._classes = classes_of(sop_class)

    def send(self, shipment: DeliveryItem) -> Answer:
        """Send the report by C-STORE; see `DeliveryTarget.send`."""
        kinds = kinds_of(shipment, shipment.classes(self._classes))
        with associate(self._peer, contexts_for(kinds)) as assoc:
            return store_one_of(assoc, shipment, kinds)

    def check(self) -> Answer:
        """Send a C-ECHO; see `DeliveryTarget.check`."""
        with associate(self._peer, [build_context(_VERIFICATION)]) as assoc:
            status = assoc.send_c_echo()
        if "Status" not in status:
            raise Deferred("no answer to C-ECHO")
        if status.Status != 0:
            raise Refused(f"0x{status.Status:04X} answer to C-ECHO", status.get("ErrorComment", ""))
        return Answer("0x0000 Success")


def open_target(settings: config.DicomTarget, calling_ae: str, _peers: Sequence[config.Peer]) -> Pacs:
    """Return the target of a ``dicom`` section."""
    return Pacs(peer_of(settings, calling_ae), settings.sop_class)


def peer_of(settings: config.DicomTarget, calling_ae: str) -> Peer:
    """Return whom to call for a ``dicom`` section."""
    return Peer(
        settings.host, settings.port, settings.ae_title, calling_ae, settings.timeout_s,
        settings.tls if settings.tls.enabled else None,
    )  # fmt: skip


def kinds_of(shipment: DeliveryItem, sop_classes: Sequence[str]) -> list[FileKind]:
    """Return what to negotiate for a report that may go as one of these SOP classes."""
    own = file_kind(shipment.path_of(shipment.report))
    return [FileKind(UID(sop_class), own.transfer_syntax) for sop_class in sop_classes]


def store_one_of(assoc: Association, shipment: DeliveryItem, kinds: Sequence[FileKind]) -> Answer:
    """Send the report as the first of these kinds that the peer takes.

    Raises
    ------
    Refused, Deferred
        See `store`.
    """
    accepted = {context.abstract_syntax for context in assoc.accepted_contexts}
    offered = [kind for kind in kinds if kind.sop_class in accepted] or list(kinds[:1])
    for kind in offered:
        form = shipment.form(str(kind.sop_class))
        try:
            return store(assoc, shipment.path_of(form), kind).of(form, shipment.report)
        except Refused as error:
            # Some archives negotiate every class and say no only to the instance.
            if not error.status.startswith(_CLASS_NOT_SUPPORTED) or kind is offered[-1]:
                raise
    raise AssertionError("a report has one class at least")


def file_kind(path: Path) -> FileKind:
    """Read from a file's meta information (PS3.10 7.1) what it is.

    Raises
    ------
    Refused
        It is gone, or no Part 10 file.
    """
    try:
        meta = read_file_meta_info(path)
        return FileKind(UID(meta.MediaStorageSOPClassUID), UID(meta.TransferSyntaxUID))
    except OSError as error:
        raise Refused(f"the file cannot be read: {error.strerror}") from error
    except (InvalidDicomError, AttributeError, ValueError, EOFError) as error:
        raise Refused("the file is not a DICOM Part 10 file") from error


def contexts_for(kinds: Sequence[FileKind]) -> list[PresentationContext]:
    """Return one context per class and transfer syntax, and the default syntax beside every uncompressed one."""
    wanted: dict[tuple[UID, UID], None] = {}
    for kind in kinds:
        wanted[kind.sop_class, kind.transfer_syntax] = None
        if _is_plain(kind.transfer_syntax):
            wanted[kind.sop_class, ImplicitVRLittleEndian] = None
    return [build_context(sop_class, syntax) for sop_class, syntax in wanted]


@contextmanager
def associate(
    peer: Peer, contexts: Sequence[PresentationContext], roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = ()
) -> Iterator[Association]:
    """Hold an association open for the block, and release it at its end.

    Raises
    ------
    Refused
        The peer rejects this node permanently, or takes none of the proposed contexts.
    Deferred
        There is no connection, the peer is busy, or it ends the talk.
    """
    connections: list[socket.socket] = []
    try:
        yield from _held(peer, contexts, roles, connections)
    finally:
        # pynetdicom closes none that the peer has reset (it stumbles over the shutdown before).
        for connection in connections:
            connection.close()


def _held(
    peer: Peer,
    contexts: Sequence[PresentationContext],
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation],
    connections: list[socket.socket],
) -> Iterator[Association]:
    # The timeouts of a connection begin anew with each byte: a peer that trickles would hold the talk for hours.
    with _cut_after(2 * peer.timeout_s, connections):
        assoc = _request(peer, contexts, roles, connections)
    pause_for_certain(assoc)
    kill = assoc.kill

    def kill_soon() -> None:
        with _cut_after(_LAST_WORDS_S, connections):
            kill()

    # It ends every abort, also pynetdicom's own when an answer does not come in time, and waits for its reader.
    assoc.kill = kill_soon  # type: ignore[method-assign]
    try:
        yield assoc
    except BaseException:
        assoc.abort()
        raise
    if assoc.is_established:
        with _cut_after(2 * peer.timeout_s, connections):
            assoc.release()


def store(assoc: Association, path: Path, kind: FileKind) -> Answer:
    """Send one file and return the peer's acceptance.

    The bytes go out as they lie in the file; where the peer took only the default transfer syntax for an
    uncompressed file, it is re-encoded.

    Raises
    ------
    Refused, Deferred
        After the status, see PS3.4 table B.2-1, or because the association is gone.
    """
    accepted = {(context.abstract_syntax, context.transfer_syntax[0]) for context in assoc.accepted_contexts}
    payload: Path | Dataset = path
    if (kind.sop_class, kind.transfer_syntax) not in accepted:
        if not _is_plain(kind.transfer_syntax) or (kind.sop_class, ImplicitVRLittleEndian) not in accepted:
            raise Refused(f"the target does not accept {kind.sop_class.name} in {kind.transfer_syntax.name}")
        payload = dcmread(path)
    # Without this pynetdicom decodes every file and encodes it again.
    _config.STORE_SEND_CHUNKED_DATASET = True
    try:
        status = assoc.send_c_store(payload)
    except (RuntimeError, OSError) as error:
        raise Deferred("the association ended before the report was sent") from error
    return _judged(status)


def _judged(status: Dataset) -> Answer:
    if "Status" not in status:
        raise Deferred("the target ended the association or did not answer in time")
    code = int(status.Status)
    comment = str(status.get("ErrorComment", ""))
    if code in _ACCEPTED:
        return Answer(f"0x{code:04X} {_ACCEPTED[code]}", comment)
    if code in _WARNINGS:
        return Answer(f"0x{code:04X} Warning", comment)
    if code in _OUT_OF_RESOURCES or code in _NOT_NOW:
        raise Deferred(f"0x{code:04X} {_NOT_NOW.get(code, 'Out of resources')}", comment)
    raise Refused(f"0x{code:04X} {_failure_name(code)}", comment)


def _failure_name(code: int) -> str:
    _, words = STORAGE_SERVICE_CLASS_STATUS.get(code, ("", ""))
    if words:
        return words.removeprefix("Refused: ")
    if 0xA900 <= code <= 0xA9FF:
        return "Data set does not match SOP class"
    return "Cannot understand" if 0xC000 <= code <= 0xCFFF else "Failure"


@contextmanager
def _cut_after(seconds: float, connections: Sequence[socket.socket]) -> Iterator[None]:
    """End the connections under whoever still reads from them when the block takes longer."""

    def cut() -> None:
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _request(
    peer: Peer,
    contexts: Sequence[PresentationContext],
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation],
    connected: list[socket.socket],
) -> Association:
    ae = AE(peer.calling_ae)
    ae.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = peer.timeout_s
    handlers: list[Any] = [(evt.EVT_CONN_OPEN, _opened, [connected, peer.timeout_s])]
    secure = _secure(peer)
    try:
        assoc = ae.associate(
            peer.host, peer.port, list(contexts), peer.called_ae, ext_neg=list(roles),
            max_pdu=MOST_PDU_BYTES, evt_handlers=handlers, tls_args=None if secure is None else (secure, peer.host),
        )  # fmt: skip
    except OSError as error:
        raise Deferred(f"no connection to {peer}: {error.strerror}") from error
    if assoc.is_established:
        return assoc
    if assoc.is_rejected:
        raise _rejection(assoc.acceptor.primitive, getattr(assoc, "peer_deviations", ()))
    if assoc.rejected_contexts and not assoc.accepted_contexts:
        names = ", ".join(sorted({UID(str(context.abstract_syntax)).name for context in assoc.rejected_contexts}))
        raise Refused(f"the target does not accept {names}")
    if secure is not None and secure.failure:
        raise Deferred(f"no TLS with {peer}: {secure.failure}")
    if not connected:
        raise Deferred(f"no connection to {peer}")
    raise Deferred(f"{peer} ended the connection without an answer")


def _secure(peer: Peer) -> CallContext | None:
    try:
        return None if peer.tls is None else call_context(peer.tls)
    except Misconfigured as error:
        raise Deferred(f"no TLS with {peer}: {error}") from error


def _opened(event: evt.Event, connected: list[socket.socket], timeout_s: float) -> None:
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        connected.append(transport.socket)
        limit_received(event.assoc)
        # A peer that falls silent inside a message must not hold the association for ever.
        transport.socket.settimeout(timeout_s)
        # With Nagle's algorithm a small message may wait 40 ms for the acknowledgement of the one before.
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _rejection(primitive: Any, deviations: Sequence[str]) -> Refused | Deferred:
    pdu = A_ASSOCIATE_RJ()
    pdu.from_primitive(primitive)
    words = f"association {deviations[0]}" if deviations else f"association rejected: {pdu.reason_str}"
    return Refused(words) if pdu.result == _REJECTED_PERMANENT else Deferred(words)


def _is_plain(syntax: UID) -> bool:
    if syntax.is_private or syntax == DeflatedExplicitVRLittleEndian:
        return False
    return not syntax.is_compressed and bool(syntax.is_little_endian)
