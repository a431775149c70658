"""Carries small series through a node's own steps, from sealed files in the spool to delivered reports."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset, dcmread

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.dicom_io.part10 import Origin
from dicom_qa_node.domain.series import StoredInstance
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.report.report_builder import report_pending
from dicom_qa_node.spool.incoming import SpoolWriter, stored_instance
from dicom_qa_node.spool.layout import SpoolLayout
from tests.report_samples import verdict, write_series
from tests.unit.encoded_images import EXPLICIT, encoded

__all__ = ["Carrier", "Ticking", "keep"]


class Ticking:
    """A clock that moves on by a second with every look."""

    def __init__(self, now: dt.datetime) -> None:
        self.now = now

    def __call__(self) -> dt.datetime:
        self.now += dt.timedelta(seconds=1)
        return self.now


def keep(writer: SpoolWriter, ds: Dataset, association: str = "c" * 32) -> StoredInstance:
    """Make one image durable as a receiver does, and return its receipt."""
    origin = Origin(str(ds.SOPClassUID), str(ds.SOPInstanceUID), EXPLICIT, "CT1", "DICOMQA", association)
    incoming = writer.begin(origin)
    incoming.write(encoded(ds))
    facts = incoming.facts()
    return stored_instance(incoming.keep(), origin, facts)


@dataclass
class Carrier:
    """One node without its processes: call its steps in any order, with as much or little as a crash left."""

    config: Config
    database: Database
    work: Path
    clock: Callable[[], dt.datetime]
    sent: list[str] = field(default_factory=list)

    @property
    def registry(self) -> Registry:
        return Registry(self.database)

    @property
    def outbox(self) -> Outbox:
        return Outbox(self.database)

    @property
    def layout(self) -> SpoolLayout:
        return SpoolLayout(self.config.spool_dir)

    def images(self, number: int, slices: int = 3) -> list[Dataset]:
        """Return the images of a series."""
        made = write_series(self.work / "made", number, slices=slices)
        return [dcmread(self.work / "made" / item.path) for item in made]

    def receive(self, images: Sequence[Dataset], *, recorded: bool = True) -> list[StoredInstance]:
        """Store images; without ``recorded`` the receiver died before their rows were written."""
        self.layout.create()
        writer = SpoolWriter(self.layout, self.clock)
        receipts = [keep(writer, ds) for ds in images]
        if recorded:
            self.registry.record(receipts)
        return receipts

    def score(self, uid: str) -> None:
        """Complete, claim and score a series."""
        progress = next(item for item in self.registry.receiving() if item.series_instance_uid == uid)
        assert self.registry.complete(progress, reason="quiet", at=self.clock())
        jobs = Jobs(self.database, clock=self.clock)
        job = jobs.claim("test")
        assert job is not None
        assert job.series_instance_uid == uid
        stored = self.registry.instances(uid)
        assert jobs.finish(job, verdict(stored))

    def report(self) -> int:
        """Report what is scored."""
        return report_pending(self.outbox, self.registry, self.config.spool_dir, self.config)

    def deliver(self) -> list[str]:
        """Deliver everything that waits; return the UIDs in their order."""
        given = []
        outbox = self.outbox
        while (delivery := outbox.claim([target.name for target in self.config.deliver.targets])) is not None:
            given.append(delivery.report.sop_instance_uid)
            assert outbox.delivered(delivery, "0x0000 success")
        self.sent += given
        return given

    def whole_way(self, number: int, slices: int = 3) -> str:
        """Bring a series from arrival to delivery; return its UID."""
        images = self.images(number, slices)
        self.receive(images)
        uid = str(images[0].SeriesInstanceUID)
        self.score(uid)
        self.report()
        self.deliver()
        return uid
