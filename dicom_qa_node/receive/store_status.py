"""DIMSE statuses of the Storage and Verification SCP, and the choice among them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from pynetdicom.events import Event

from dicom_qa_node.dicom_io.element_scanner import BrokenDataSet
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.uids import InvalidUid
from dicom_qa_node.dose.report_reader import NoDoseReport, UnreadableReport
from dicom_qa_node.spool.disk_space import SpoolFull

__all__ = ["Answer", "Status", "WrongSopClass", "WrongSopInstance", "answer_for", "handle_echo"]


def handle_echo(event: Event) -> int:
    """Serve ``evt.EVT_C_ECHO``: the node is there and takes associations."""
    return int(Status.SUCCESS)


_COMMENT_LENGTH = 64


class Status(IntEnum):
    """C-STORE statuses of PS3.4 table B.2-1 and PS3.7 annex C."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    INVALID_OBJECT_INSTANCE = 0x0117
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_DOES_NOT_MATCH_SOP_CLASS = 0xA900
    CANNOT_UNDERSTAND = 0xC000


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and its Error Comment (0000,0902), at most 64 characters without patient data."""

    status: Status
    comment: str = ""


SUCCESS = Answer(Status.SUCCESS)


class WrongSopClass(Permanent):
    """The data set is of another SOP class than the request says."""


class WrongSopInstance(Permanent):
    """The data set has another SOP Instance UID than the request says."""


_BY_TYPE: tuple[tuple[type[Exception], Status], ...] = (
    (SpoolFull, Status.OUT_OF_RESOURCES),
    (InvalidUid, Status.INVALID_OBJECT_INSTANCE),
    (WrongSopClass, Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS),
    (WrongSopInstance, Status.INVALID_OBJECT_INSTANCE),
    (BrokenDataSet, Status.CANNOT_UNDERSTAND),
    (NoDoseReport, Status.SOP_CLASS_NOT_SUPPORTED),
    (UnreadableReport, Status.CANNOT_UNDERSTAND),
)


def answer_for(error: Exception) -> Answer:
    """Return what a peer is told about a failed C-STORE.

    Only failures that this package words itself are quoted; anything else is a processing failure.
    """
    for kind, status in _BY_TYPE:
        if isinstance(error, kind):
            return Answer(status, str(error)[:_COMMENT_LENGTH])
    return Answer(Status.PROCESSING_FAILURE, "internal error, see the log of the receiver")
