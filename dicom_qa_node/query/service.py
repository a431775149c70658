"""What the receiver's application entity is given so that it answers queries, too: contexts, handlers, operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom import evt
from pynetdicom.dimse_primitives import C_GET, C_MOVE
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext, build_context

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.query.c_find import find
from dicom_qa_node.query.c_move_c_get import serve_get, serve_move
from dicom_qa_node.query.holdings import Holdings, open_holdings
from dicom_qa_node.query.sop_classes import QUERY_CLASSES, accept_extended

__all__ = ["REPORT_CLASSES", "QueryService", "open_query_service"]

REPORT_CLASSES: tuple[UID, ...] = (
    Comprehensive3DSRStorage,
    EnhancedSRStorage,
    ComprehensiveSRStorage,
    SecondaryCaptureImageStorage,
    EncapsulatedPDFStorage,
    KeyObjectSelectionDocumentStorage,
)
"""What C-GET may bring beside images."""


class QueryService:
    """The query/retrieve SCP of one receiver process."""

    def __init__(self, holdings: Holdings, *, images: bool) -> None:
        self._holdings = holdings
        self.sends_images = images

    def contexts(self) -> list[PresentationContext]:
        """Return the presentation contexts of queries, and those of reports in which only the node sends."""
        reports = [
            build_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]) for sop_class in REPORT_CLASSES
        ]
        for context in reports:
            # In pynetdicom's words the requestor's roles: an SCP to us, never an SCU.
            context.scu_role, context.scp_role = False, True
        return [build_context(sop_class) for sop_class in QUERY_CLASSES] + reports

    def handlers(self) -> Sequence[tuple[Any, Callable[[Event], Any]]]:
        """Return the handlers of pynetdicom's events."""
        holdings = self._holdings
        return [
            (evt.EVT_C_FIND, lambda event: find(event, holdings)),
            (evt.EVT_SOP_EXTENDED, lambda event: accept_extended(event.app_info)),
        ]

    def operations(self) -> Mapping[type, Callable[..., None]]:
        """Return what is served in place of pynetdicom's own services, by the type of the request."""
        return {
            C_MOVE: partial(serve_move, holdings=self._holdings),
            C_GET: partial(serve_get, holdings=self._holdings),
        }

    def prepare(self) -> None:
        """Read the headers of reports that are not kept yet; takes long once, after an update of the node."""
        self._holdings.indexer.catch_up()


def open_query_service(config: Config, database: Database) -> QueryService:
    """Return the service of a process; ``database`` is that process's own."""
    return QueryService(open_holdings(config, database), images=config.query.images)
