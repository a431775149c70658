"""What peers send to be refused takes neither the disk below its watermark nor more than its share of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dicom_qa_node.dicom_io.part10 import Origin
from dicom_qa_node.receive.store_handler import ReceivedObject, StoreHandler
from dicom_qa_node.receive.store_status import Status
from dicom_qa_node.spool.disk_space import DiskGauge, DiskUsage
from dicom_qa_node.spool.incoming import SpoolWriter, move_to_quarantine
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.quarantine_share import HEAD_BYTES, QuarantineShare
from tests.hostile_data_sets import element, head

MIB = 1 << 20
TOTAL, MINIMUM, RESUME = 1000 * MIB, 200, 300


class Disk:
    """A disk of 1,000 MiB on which the spool is what takes room, beside ``used``."""

    def __init__(self, layout: SpoolLayout, used: int = 0) -> None:
        self.layout, self.used = layout, used
        self.lowest = TOTAL

    def usage(self, _: Path) -> DiskUsage:
        taken = sum(path.stat().st_size for path in self.layout.root.rglob("*") if path.is_file())
        self.lowest = min(self.lowest, TOTAL - self.used - taken)
        return DiskUsage(TOTAL, TOTAL - self.used - taken)


@pytest.fixture
def layout(tmp_path: Path) -> SpoolLayout:
    found = SpoolLayout(tmp_path / "spool")
    found.create()
    return found


def handler(layout: SpoolLayout, disk: Disk, **options) -> StoreHandler:
    gauge = DiskGauge(layout.root, MINIMUM, RESUME, every_s=0, usage=disk.usage)
    share = QuarantineShare(layout, 5, RESUME, usage=disk.usage, **options)
    return StoreHandler(SpoolWriter(layout), gauge, lambda _: None, quarantine=share)


def begin(intake: StoreHandler, number: int) -> ReceivedObject:
    uid = f"1.2.826.0.1.{number + 1}"
    return ReceivedObject(intake, Origin("1.2.840.10008.5.1.4.1.1.2", uid, "1.2.840.10008.1.2.1", "CT1", "QA", "a"))


def test_an_object_larger_than_the_room_ends_above_the_watermark_and_closes_nothing(layout):
    disk = Disk(layout, used=700 * MIB)
    intake = handler(layout, disk)
    large = begin(intake, 0)
    for _ in range(200):
        large.write(bytes(MIB))
    assert large.finish().status is Status.OUT_OF_RESOURCES
    assert disk.lowest >= MINIMUM * MIB
    assert list(layout.incoming.iterdir()) == []
    assert list(layout.quarantine.iterdir()) == []
    small = begin(intake, 1)
    small.write(head("1.2.826.0.1.2") + element(0x7FE0, 0x10, b"OW", b"\0\0"))
    assert small.finish().status is Status.SUCCESS


def test_of_a_large_refused_object_the_beginning_is_kept(layout):
    disk = Disk(layout)
    refused = begin(handler(layout, disk), 0)
    for _ in range(40):
        refused.write(bytes(MIB))
    assert refused.finish().status is Status.CANNOT_UNDERSTAND
    (path,) = layout.quarantine.glob("*.dcm")
    assert HEAD_BYTES < path.stat().st_size < HEAD_BYTES + 4096
    assert (
        f"the first {HEAD_BYTES} of {40 * MIB} bytes are kept"
        in json.loads(path.with_suffix(".json").read_text())["reason"]
    )


def test_quarantine_keeps_to_its_share_and_drops_the_oldest_first(layout):
    disk = Disk(layout)
    intake = handler(layout, disk)
    damaged = layout.instance("1.2.3")
    damaged.write_bytes(b"x" * MIB)
    held = move_to_quarantine(layout, damaged, "found damaged")
    os.utime(layout.absolute(held.path), (1, 1))
    for number in range(60):
        refused = begin(intake, number)
        refused.write(bytes(2 * MIB))
        assert refused.finish().status is Status.CANNOT_UNDERSTAND
        newest = max(layout.quarantine.glob("*.dcm"), key=lambda path: path.stat().st_mtime_ns)
        assert newest.exists()
        taken = sum(path.stat().st_size for path in layout.quarantine.iterdir())
        assert taken < TOTAL * 5 / 100 * 1.1
    assert layout.absolute(held.path).exists()
    assert len(list(layout.quarantine.glob("*.dcm"))) == len(list(layout.quarantine.glob("*.json")))
    assert disk.lowest > 900 * MIB


def test_the_number_of_objects_has_a_limit_too(layout):
    disk = Disk(layout)
    intake = handler(layout, disk, most_objects=100)
    for number in range(300):
        refused = begin(intake, number)
        refused.write(b"rubbish!")
        refused.finish()
    assert 90 <= len(list(layout.quarantine.glob("*.dcm"))) <= 106
