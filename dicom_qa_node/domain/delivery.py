"""Reports and other documents, and their deliveries to targets."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
__all__ = ["NOBODY", "Delivery", "DocumentKind", "ReportRef", "Sender"]


class DocumentKind(StrEnum):
    """What is made of one version of a series: always the report, the others where a target wants them."""

    REPORT = "report"
    IMAGE = "image"
    PDF = "pdf"
    KEY_OBJECTS = "key_objects"


@dataclass(frozen=True, slots=True)
class ReportRef:
    """A Structured Report, or a document beside it, that lies in the spool (``path`` is relative to it)."""

    sop_instance_uid: str
    sop_class_uid: str
    report_series_uid: str
    series_instance_uid: str
    version: int
    path: str
    created_at: dt.datetime
    predecessor_uid: str | None = None
    kind: DocumentKind = DocumentKind.REPORT


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent the images of a series, and from which address; empty where that is not known."""

    ae_title: str = ""
    host: str = ""


NOBODY = Sender()
"""The sender where it is not known."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One claimed outbox row: this report to that target; ``sender`` sent the images of its series."""

    delivery_id: int
    target: str
    report: ReportRef
    attempt: int
    lease_token: str
    sender: Sender = NOBODY
