"""What a delivery target is, and how it answers: accepted, refused for good, or not now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dicom_qa_node.errors import Permanent, Transient
from dicom_qa_node.records import ReportRef

__all__ = ["Answer", "Deferred", "DeliveryTarget", "Refused"]


def _words(status: str, comment: str) -> str:
    return f"{status}: {comment}" if comment else status


@dataclass(frozen=True, slots=True)
class Answer:
    """The target has the report. ``status`` is ours and may be logged; ``comment`` is the target's own words."""

    status: str
    comment: str = ""

    def __str__(self) -> str:
        """Return what the operator reads."""
        return _words(self.status, self.comment)


class Refused(Permanent):
    """The target will not take this report however often it is sent; ``status`` leaves the target's words out."""

    def __init__(self, status: str, comment: str = "") -> None:
        self.status = status
        super().__init__(_words(status, comment))


class Deferred(Transient):
    """The target cannot take the report now; ``status`` leaves the target's words out."""

    def __init__(self, status: str, comment: str = "") -> None:
        self.status = status
        super().__init__(_words(status, comment))


class DeliveryTarget(Protocol):
    """A receiver of reports.

    A kind of target is one module in this package with a function ``open_target(settings, calling_ae)`` that
    returns one of these, and a section of the same ``kind`` in the configuration.
    """

    def send(self, path: Path, report: ReportRef) -> Answer:
        """Hand a report over and return when the target answers for it.

        A target that has the report already accepts it again.

        Raises
        ------
        Refused
            It is no use to try again.
        Deferred
            It may work later; the outbox tries again.
        """
        ...

    def check(self) -> Answer:
        """Say whether the target is there, without sending anything.

        Raises
        ------
        Refused, Deferred
            It is not, or does not want to talk to this node.
        """
        ...
