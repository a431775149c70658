"""The statuses of C-FIND, C-MOVE and C-GET responses (PS3.4 tables C.4-1 to C.4-3)."""

from __future__ import annotations

from enum import IntEnum

from pydicom.dataset import Dataset

__all__ = ["Status", "refusal"]

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
