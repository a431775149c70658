"""What the spool can commit to (PS3.4 annex J), and the data sets in which requests and answers travel.

The file decides, not its row: rows may lag behind, and the file is what a promise is about.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from io import BytesIO
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from dicom_qa_node.dicom_io.element_scanner import BrokenDataSet, HeaderBudget, check_items
from dicom_qa_node.dicom_io.file_reader import MessageBudget, decode_message
from dicom_qa_node.dicom_io.part10 import open_envelope
from dicom_qa_node.domain.uids import is_uid
from dicom_qa_node.spool.layout import SpoolLayout

__all__ = [
    "CONTRADICTION",
    "NOT_AN_INFORMATION",
    "PUSH_MODEL",
    "PUSH_MODEL_INSTANCE",
    "CommitItem",
    "CommitStatus",
    "decode_information",
    "failure_reason",
    "read_request",
    "reason_given",
    "report_of",
    "request_of",
]

PUSH_MODEL = UID("1.2.840.10008.1.20.1")
PUSH_MODEL_INSTANCE = UID("1.2.840.10008.1.20.1.1")
_ALL_COMMITTED, _FAILURES_EXIST = 1, 2
_ENVELOPE_BYTES = 4096
_REFERENCES = 0x0008
# Twenty thousand references, which fill a message, are some two megabytes.
_BUDGET = MessageBudget(plain_bytes=4 << 20, elements=64)
_ITEMS = HeaderBudget(nested=100_000, depth=4)

NOT_AN_INFORMATION = (AttributeError, ValueError, TypeError, KeyError, InvalidDicomError, BrokenDataSet)
"""What `decode_information`, `read_request` and `reason_given` raise for what a peer should not have sent."""


CONTRADICTION = 0xFFFF
"""Not a Failure Reason of PS3.3 C.14.1.1: the archive's answer contradicts itself."""


class CommitStatus(IntEnum):
    """Statuses of N-ACTION and N-EVENT-REPORT responses, and Failure Reasons (PS3.7 C.4, PS3.3 C.14.1.1)."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    NO_SUCH_OBJECT_INSTANCE = 0x0112
    INVALID_ARGUMENT_VALUE = 0x0115
    CLASS_INSTANCE_CONFLICT = 0x0119
    NO_SUCH_ACTION = 0x0123


@dataclass(frozen=True, slots=True)
class CommitItem:
    """One instance of a request with its Failure Reason (0008,1197), None for one that is committed."""

    sop_class_uid: str
    sop_instance_uid: str
    failure_reason: int | None = None


def decode_information(encoded: BytesIO | None, transfer_syntax: UID) -> Dataset:
    """Decode the Action or Event Information of a message within a budget of elements and references.

    Raises
    ------
    NOT_AN_INFORMATION
        It cannot be read, or not within the budget.
    """
    information = decode_message(b"" if encoded is None else encoded.getvalue(), transfer_syntax, _BUDGET)
    for tag in list(information.keys()):
        item: Any = information.get_item(tag)
        if isinstance(item, RawDataElement) and item.value and tag.group == _REFERENCES:
            check_items(
                item.value, implicit_vr=item.is_implicit_VR, big_endian=not item.is_little_endian, budget=_ITEMS
            )
    return information


def request_of(transaction_uid: str, sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """Return the Action Information of a request for one instance (PS3.4 table J.3-1)."""
    reference = Dataset()
    reference.ReferencedSOPClassUID = sop_class_uid
    reference.ReferencedSOPInstanceUID = sop_instance_uid
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = [reference]
    return information


def failure_reason(layout: SpoolLayout, sop_class_uid: str, sop_instance_uid: str) -> int | None:
    """Return why an instance cannot be committed, None if its bytes are durable under that class."""
    if not is_uid(sop_instance_uid):
        return int(CommitStatus.NO_SUCH_OBJECT_INSTANCE)
    # A dose report has one file for each content that came under its UID.
    path = next(iter(layout.dose_reports_of(sop_instance_uid)), layout.instance(sop_instance_uid))
    try:
        with path.open("rb") as file:
            envelope = open_envelope(file.read(_ENVELOPE_BYTES))
    except FileNotFoundError:
        return int(CommitStatus.NO_SUCH_OBJECT_INSTANCE)
    except (OSError, BrokenDataSet):
        return int(CommitStatus.PROCESSING_FAILURE)
    if envelope.origin.sop_class_uid != sop_class_uid:
        return int(CommitStatus.CLASS_INSTANCE_CONFLICT)
    return None


def report_of(transaction_uid: str, items: Iterable[CommitItem]) -> tuple[int, Dataset]:
    """Return Event Type ID and Event Information of the answer to a request (PS3.4 table J.3-2)."""
    committed: list[Dataset] = []
    failed: list[Dataset] = []
    for item in items:
        reference = Dataset()
        reference.ReferencedSOPClassUID = item.sop_class_uid
        reference.ReferencedSOPInstanceUID = item.sop_instance_uid
        if item.failure_reason is not None:
            reference.FailureReason = item.failure_reason
        (committed if item.failure_reason is None else failed).append(reference)
    information = Dataset()
    information.TransactionUID = transaction_uid
    if committed:
        information.ReferencedSOPSequence = committed
    if failed:
        information.FailedSOPSequence = failed
    return (_FAILURES_EXIST if failed else _ALL_COMMITTED), information


def reason_given(information: Dataset, report_uid: str) -> int | None:
    """Return the Failure Reason that an archive gives for a report, None if it has committed to it.

    `CONTRADICTION` for one that is named as stored and as failed: neither can be relied on.
    """
    stored = any(item.ReferencedSOPInstanceUID == report_uid for item in information.get("ReferencedSOPSequence") or ())
    for item in information.get("FailedSOPSequence") or ():
        if item.ReferencedSOPInstanceUID == report_uid:
            return CONTRADICTION if stored else int(item.get("FailureReason", CommitStatus.PROCESSING_FAILURE))
    return None if stored else int(CommitStatus.PROCESSING_FAILURE)


def read_request(information: Dataset) -> tuple[str, list[tuple[str, str]]]:
    """Return transaction, and class and instance of each object, of a request (PS3.4 table J.3-1).

    Raises
    ------
    AttributeError, ValueError, TypeError, KeyError
        Something is missing or is not a UID.
    """
    transaction_uid = str(information.TransactionUID)
    items = information.ReferencedSOPSequence
    if not is_uid(transaction_uid) or not items:
        raise ValueError
    return transaction_uid, [(str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID)) for item in items]
