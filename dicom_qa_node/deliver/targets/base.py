"""What a delivery target is, what it is given, and how it answers: accepted, refused permanently, or not now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pydicom.uid import UID, Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from dicom_qa_node.domain.delivery import NOBODY, DocumentKind, ReportRef, Sender
from dicom_qa_node.domain.errors import Permanent, Transient
from dicom_qa_node.spool.verification import StoredFileChanged, verify

__all__ = ["CLASSES", "Answer", "Convert", "Deferred", "DeliveryItem", "DeliveryTarget", "Refused", "classes_of"]

CLASSES = {
    "comprehensive3d": str(Comprehensive3DSRStorage),
    "comprehensive": str(ComprehensiveSRStorage),
    "enhanced": str(EnhancedSRStorage),
}
"""The SOP classes of a report by their name in the configuration, the one to be preferred first."""

Convert = Callable[[ReportRef, str], ReportRef]


def _words(status: str, comment: str) -> str:
    return f"{status}: {comment}" if comment else status


@dataclass(frozen=True, slots=True)
class Answer:
    """The target has the report. ``status`` is ours and may be logged; ``comment`` is the target's own words.

    ``sent_uid`` is the SOP Instance UID of what the target has where that is not the report itself, and ``form`` all
    that is known of it.
    """

    status: str
    comment: str = ""
    sent_uid: str = ""
    form: ReportRef | None = None

    def __str__(self) -> str:
        """Return what the operator reads."""
        return _words(self.status, self.comment)

    def of(self, form: ReportRef, report: ReportRef) -> Answer:
        """Return the answer to a form of ``report``, which it names where it is another class."""
        if form.sop_instance_uid == report.sop_instance_uid:
            return self
        name = UID(form.sop_class_uid).name.removesuffix(" Storage")
        return replace(self, status=f"{self.status}, as {name}", sent_uid=form.sop_instance_uid, form=form)


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


def _no_conversion(report: ReportRef, sop_class_uid: str) -> ReportRef:
    raise Refused(f"the report is not at hand as {UID(sop_class_uid).name}")


@dataclass(frozen=True, slots=True)
class DeliveryItem:
    """One report for one target: its file lies in ``spool_dir``; ``sender`` sent its images."""

    spool_dir: Path
    report: ReportRef
    sender: Sender = NOBODY
    convert: Convert = _no_conversion

    def form(self, sop_class_uid: str) -> ReportRef:
        """Return the report as that SOP class, made if need be; another class has another SOP Instance UID.

        Raises
        ------
        Permanent
            Its content cannot stand in that class.
        Transient
            The file cannot be written now.
        """
        if sop_class_uid == self.report.sop_class_uid:
            return self.report
        return self.convert(self.report, sop_class_uid)

    def classes(self, allowed: Sequence[str]) -> tuple[str, ...]:
        """Return the SOP classes to send it as: those allowed for a report; a document beside one has its own only."""
        return tuple(allowed) if self.report.kind is DocumentKind.REPORT else (self.report.sop_class_uid,)

    def path_of(self, form: ReportRef) -> Path:
        """Return the file of a form, which still has the bytes that were written.

        Raises
        ------
        Refused
            It has others: a damaged report goes to nobody.
        """
        path = self.spool_dir / form.path
        try:
            verify(path, form.path)
        except StoredFileChanged as error:
            raise Refused(str(error)) from error
        except OSError:
            # Whoever reads the file next says what is wrong with it.
            return path
        return path


def classes_of(sop_class: str) -> tuple[str, ...]:
    """Return the SOP classes that a target's ``sop_class`` allows, the one to be preferred first."""
    return tuple(CLASSES.values()) if sop_class == "auto" else (CLASSES[sop_class],)


class DeliveryTarget(Protocol):
    """A receiver of reports.

    A kind of target is one module in this package with a function ``open_target(settings, calling_ae, peers)`` that
    returns one of these, and a section of the same ``kind`` in the configuration.
    """

    def send(self, shipment: DeliveryItem) -> Answer:
        """Hand a report over and return when the target answers for it.

        A target that has the report already accepts it again.

        Raises
        ------
        Refused
            Another attempt cannot succeed.
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
