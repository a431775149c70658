"""SOP classes, extended negotiation and statuses of query/retrieve (PS3.4 C.4, C.5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.association import Association

from dicom_qa_node.query.identifiers import Model

__all__ = [
    "FIND_CLASSES",
    "GET_CLASSES",
    "MOVE_CLASSES",
    "QUERY_CLASSES",
    "Negotiated",
    "Status",
    "accept_extended",
    "negotiated",
    "refusal",
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


_COMMENT_LENGTH = 64


class Status(IntEnum):
    """Every status that the query/retrieve SCP answers with."""

    SUCCESS = 0x0000
    PENDING = 0xFF00
    PENDING_UNSUPPORTED_KEYS = 0xFF01
    CANCEL = 0xFE00
    WARNING_SUB_OPERATIONS = 0xB000
    OUT_OF_RESOURCES = 0xA700
    UNABLE_TO_COUNT = 0xA701
    UNABLE_TO_PERFORM = 0xA702
    DESTINATION_UNKNOWN = 0xA801
    IDENTIFIER_MISMATCH = 0xA900
    UNABLE_TO_PROCESS = 0xC000


def refusal(status: Status, comment: str) -> Dataset:
    """Return a failure status with its Error Comment (0000,0902), which holds no patient data."""
    dataset = Dataset()
    dataset.Status = int(status)
    dataset.ErrorComment = comment[:_COMMENT_LENGTH]
    return dataset
