"""The SOP classes of query/retrieve and what a peer may negotiate about them (PS3.4 C.5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.uid import UID
from pynetdicom.association import Association

from dicom_qa_node.query.identifiers import Model

__all__ = [
    "FIND_CLASSES",
    "GET_CLASSES",
    "MOVE_CLASSES",
    "QUERY_CLASSES",
    "Negotiated",
    "accept_extended",
    "negotiated",
]

FIND_CLASSES = (
    UID("1.2.840.10008.5.1.4.1.2.1.1"),
    UID("1.2.840.10008.5.1.4.1.2.2.1"),
)
MOVE_CLASSES = (
    UID("1.2.840.10008.5.1.4.1.2.1.2"),
    UID("1.2.840.10008.5.1.4.1.2.2.2"),
)
GET_CLASSES = (
    UID("1.2.840.10008.5.1.4.1.2.1.3"),
    UID("1.2.840.10008.5.1.4.1.2.2.3"),
)
QUERY_CLASSES = FIND_CLASSES + MOVE_CLASSES + GET_CLASSES
_PATIENT_ROOT = frozenset({FIND_CLASSES[0], MOVE_CLASSES[0], GET_CLASSES[0]})


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The model of a SOP class, and the options that were agreed on for it."""

    model: Model
    relational: bool
    combined: bool


def accept_extended(proposed: Mapping[UID, bytes]) -> dict[UID, bytes]:
    """Answer SOP Class Extended Negotiation: relational queries and retrieval, and for C-FIND combined date and time.

    Fuzzy names (byte 3), time zones (byte 4) and everything after are not offered (PS3.4 C.5.1.1).
    """
    return {
        uid: bytes(
            value if position == 0 or (position == 1 and uid in FIND_CLASSES) else 0
            for position, value in enumerate(information)
        )
        for uid, information in proposed.items()
        if uid in QUERY_CLASSES
    }


def negotiated(assoc: Association, sop_class: str) -> Negotiated:
    """Return what holds for requests of a SOP class on an association."""
    information = assoc.acceptor.sop_class_extended.get(UID(sop_class), b"") or b""
    return Negotiated(
        model=Model.PATIENT_ROOT if sop_class in _PATIENT_ROOT else Model.STUDY_ROOT,
        relational=information[:1] == b"\1",
        combined=sop_class in FIND_CLASSES and information[1:2] == b"\1",
    )
