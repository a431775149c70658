"""Presentation contexts of the receiver, and the extension point for more DIMSE services on its port."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from pydicom.uid import (
    JPEG2000,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    EnhancedPETImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
)
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.errors import NodeError
from dicom_qa_node.dose.report_reader import DOSE_REPORT_CLASSES
from dicom_qa_node.log import log_event

__all__ = [
    "DOSE_REPORT_SYNTAXES",
    "STORAGE_CLASSES",
    "TRANSFER_SYNTAXES",
    "OpenServiceHandler",
    "ServiceHandler",
    "drop_unsolicited",
    "merged_contexts",
    "prepare",
    "serve_operation",
    "storage_contexts",
    "supported_contexts",
]

_LOGGER = logging.getLogger(__name__)

Operation = Callable[[Association, Any, PresentationContext], None]


class ServiceHandler(Protocol):
    """A service of the application entity beside storage and verification."""

    sends_images: bool
    """Whether it sends images back on the peer's association (C-GET)."""

    def contexts(self) -> list[PresentationContext]:
        """Return its presentation contexts; one with only ``scp_role`` set is for sending to the peer."""

    def handlers(self) -> Sequence[tuple[Any, Callable[..., Any]]]:
        """Return handlers of pynetdicom's events."""

    def operations(self) -> Mapping[type, Operation]:
        """Return what answers requests of these types in place of pynetdicom's own services."""

    def prepare(self) -> None:
        """Do what would make the first request slow."""


OpenServiceHandler = Callable[[Config, Database], ServiceHandler]


def merged_contexts(
    storage: Sequence[PresentationContext], others: Sequence[PresentationContext], services: Sequence[ServiceHandler]
) -> list[PresentationContext]:
    """Return every context of the application entity; ``storage`` in both roles where images are sent back."""
    if any(service.sends_images for service in services):
        for context in storage:
            context.scu_role = context.scp_role = True
    return _one_for_each([*storage, *others, *(context for service in services for context in service.contexts())])


def _one_for_each(contexts: Sequence[PresentationContext]) -> list[PresentationContext]:
    """Merge contexts of one abstract syntax: a class that the node stores and also sends is taken in both roles."""
    found: dict[str, PresentationContext] = {}
    for context in contexts:
        first = found.setdefault(str(context.abstract_syntax), context)
        if first is not context:
            first.scu_role = first.scp_role = True
    return list(found.values())


def drop_unsolicited(assoc: Association) -> None:
    """Before negotiation: do not accept, for storage, a class that the node only sends (PS3.7 D.3.3.4)."""
    wanted = {uid for uid, item in assoc.requestor.role_selection.items() if item.scp_role}
    supported = assoc.acceptor.supported_contexts
    kept = [context for context in supported if not _sends_only(context) or context.abstract_syntax in wanted]
    if len(kept) < len(supported):
        assoc.acceptor.supported_contexts = kept


def serve_operation(
    operations: Mapping[type, Operation], assoc: Association, request: Any, context: PresentationContext | None
) -> bool:
    """Answer a request by a further service; False if none of them serves it."""
    operation = operations.get(type(request))
    if operation is None or context is None or not request.is_valid_request:
        return False
    if context.abstract_syntax != request.AffectedSOPClassUID:
        return False
    try:
        operation(assoc, request, context)
    except Exception:
        _LOGGER.exception("operation_failed")
        assoc.abort()
    return True


def prepare(services: Sequence[ServiceHandler]) -> None:
    """Let each service prepare; one that cannot does it at its first request."""
    for service in services:
        try:
            service.prepare()
        except NodeError as error:
            log_event(_LOGGER, logging.WARNING, "service_not_prepared", reason=str(error))


def _sends_only(context: PresentationContext) -> bool:
    return context.scu_role is False and context.scp_role is True


VERIFICATION = UID("1.2.840.10008.1.1")
STORAGE_CLASSES: tuple[UID, ...] = (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    PositronEmissionTomographyImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
)

# The first one that a peer proposes in a context is taken: lossless and cheap to read before lossy.
TRANSFER_SYNTAXES: tuple[UID, ...] = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    JPEGLosslessSV1,
    JPEGLossless,
    JPEG2000Lossless,
    RLELossless,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGLSNearLossless,
    JPEG2000,
)


DOSE_REPORT_SYNTAXES: tuple[UID, ...] = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
)


def storage_contexts() -> list[PresentationContext]:
    """Return one context per storage class of images with every transfer syntax."""
    return [build_context(sop_class, list(TRANSFER_SYNTAXES)) for sop_class in STORAGE_CLASSES]


def dose_report_contexts() -> list[PresentationContext]:
    """Return one context per SOP class of dose reports."""
    return [build_context(sop_class, list(DOSE_REPORT_SYNTAXES)) for sop_class in sorted(DOSE_REPORT_CLASSES)]


def supported_contexts(extra_services: Sequence[ServiceHandler] = ()) -> list[PresentationContext]:
    """Return everything the receiver accepts, with the contexts of ``further`` services."""
    others = [build_context(VERIFICATION), *dose_report_contexts()]
    return merged_contexts(storage_contexts(), others, extra_services)
