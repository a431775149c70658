"""Sends stored files as sub-operations of a retrieval (C-STORE as SCU), to a destination or back on an association."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.status import code_to_category

from dicom_qa_node.config import Destination
from dicom_qa_node.dicom_io.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_qa_node.dicom_io.pydicom_patches import dcmread
from dicom_qa_node.dicom_io.pynetdicom_patches import MOST_PDU_BYTES, limit_received, pause_for_certain
from dicom_qa_node.dicom_io.tls import call_context
from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.index.catalogue import HeldInstance
from dicom_qa_node.log import log_event
from dicom_qa_node.query.holdings import Holdings

__all__ = ["Outcome", "Unreachable", "associate", "contexts_of", "send_file"]

_LOGGER = logging.getLogger(__name__)
_MOST_CONTEXTS = 128
# The receiver has the instance (PS3.7 C.5.10), which is what the requester wanted.
_DUPLICATE = 0x0111


class Outcome(Enum):
    """How one sub-operation ended."""

    COMPLETED = "completed"
    WARNING = "warning"
    FAILED = "failed"


class Unreachable(Exception):
    """There is no association with the destination."""


@contextmanager
def associate(destination: Destination, holdings: Holdings, instances: Sequence[HeldInstance]) -> Iterator[Association]:
    """Hold an association with a move destination, with contexts for the instances as they are stored."""
    ae = AE(holdings.ae_title)
    ae.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = holdings.timeout_s
    handlers: list[Any] = [(evt.EVT_CONN_OPEN, _opened, [holdings.timeout_s])]
    try:
        secure = call_context(destination.tls) if destination.tls.enabled else None
        assoc = ae.associate(
            destination.host, destination.port, contexts_of(instances), destination.ae_title,
            max_pdu=MOST_PDU_BYTES, evt_handlers=handlers,
            tls_args=None if secure is None else (secure, destination.host),
        )  # fmt: skip
    except Misconfigured as error:
        log_event(_LOGGER, logging.ERROR, "move_without_tls", destination=destination.ae_title, reason=str(error))
        raise Unreachable("the node's TLS files cannot be used") from error
    except OSError as error:
        raise Unreachable(f"the destination is not reached: {error.strerror}") from error
    if secure is not None and secure.failure and not assoc.is_established:
        log_event(_LOGGER, logging.ERROR, "move_without_tls", destination=destination.ae_title, reason=secure.failure)
        raise Unreachable("no TLS with the destination")
    if not assoc.is_established:
        reason = "rejects the association" if assoc.is_rejected else "is not reached, or takes none of the objects"
        raise Unreachable(f"the destination {reason}")
    pause_for_certain(assoc)
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def contexts_of(instances: Sequence[HeldInstance]) -> list[PresentationContext]:
    """Return one context per class and stored transfer syntax; beside a plain one, the other plain one."""
    wanted: dict[tuple[str, str], None] = {}
    for instance in instances:
        wanted[instance.sop_class_uid, instance.transfer_syntax_uid] = None
        if _is_plain(UID(instance.transfer_syntax_uid)):
            for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
                wanted[instance.sop_class_uid, str(syntax)] = None
    return [build_context(sop_class, syntax) for sop_class, syntax in list(wanted)[:_MOST_CONTEXTS]]


def send_file(
    assoc: Association, instance: HeldInstance, path: Path, message_id: int, originator: tuple[str, int] | None
) -> Outcome:
    """Send one file and return what became of it; whatever goes wrong fails this sub-operation only.

    The bytes go out as they are stored. Only where the receiver took another uncompressed transfer syntax than that
    of an uncompressed file, it is re-encoded. ``originator`` is who asked for a C-MOVE and its Message ID.
    """
    title, originator_id = originator or (None, None)
    # Without it pynetdicom decodes every file and encodes it again.
    _config.STORE_SEND_CHUNKED_DATASET = True
    try:
        payload = _payload(assoc, instance, path)
        status = assoc.send_c_store(payload, message_id, originator_aet=title, originator_id=originator_id)
    except (RuntimeError, OSError, ValueError, AttributeError, InvalidDicomError) as error:
        _log(instance, type(error).__name__)
        return Outcome.FAILED
    if "Status" not in status:
        _log(instance, "no answer")
        return Outcome.FAILED
    code = int(status.Status)
    if code == 0:
        return Outcome.COMPLETED
    if code == _DUPLICATE or code_to_category(code) == "Warning":
        return Outcome.WARNING
    _log(instance, f"{code:04X}")
    return Outcome.FAILED


def _payload(assoc: Association, instance: HeldInstance, path: Path) -> Path | Dataset:
    contexts = [context for context in assoc.accepted_contexts if context.as_scu]
    accepted = {str(cx.transfer_syntax[0]) for cx in contexts if cx.abstract_syntax == instance.sop_class_uid}
    if instance.transfer_syntax_uid in accepted:
        return path
    if not _is_plain(UID(instance.transfer_syntax_uid)) or not any(_is_plain(UID(uid)) for uid in accepted):
        raise ValueError("no presentation context")
    return dcmread(path)


def _is_plain(syntax: UID) -> bool:
    return syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


def _opened(event: evt.Event, timeout_s: float) -> None:
    """Send at once, and never wait for ever inside a message of the destination."""
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        limit_received(event.assoc)
        transport.socket.settimeout(timeout_s)
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _log(instance: HeldInstance, reason: str) -> None:
    log_event(_LOGGER, logging.WARNING, "sub_operation_failed", sop=instance.sop_instance_uid, reason=reason)
