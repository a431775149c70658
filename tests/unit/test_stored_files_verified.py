"""A bit that changed on the disk is an error that names the file, before anything is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_qa_node.deliver.targets.base import DeliveryItem, Refused
from dicom_qa_node.dicom_io.part10 import Origin, with_checksum
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.spool.incoming import Outcome, SpoolWriter, StoredFile
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.verification import Scrubber, StoredFileChanged, verify
from tests.hostile_data_sets import element, head
from tests.tiny_series import ct, write

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


@pytest.fixture
def layout(tmp_path: Path) -> SpoolLayout:
    found = SpoolLayout(tmp_path / "spool")
    found.create()
    return found


def keep(layout: SpoolLayout, number: int = 1, pixels: bytes = bytes(4000)) -> StoredFile:
    uid = f"1.2.826.0.1.{number}"
    incoming = SpoolWriter(layout).begin(Origin(CT, uid, EXPLICIT, "CT1", "QA", "association"))
    incoming.write(head(uid) + element(0x7FE0, 0x10, b"OW", pixels))
    return incoming.keep()


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("at", [-1, -3000, -4100])
def test_any_changed_bit_of_a_stored_image_is_found(layout, at):
    kept = keep(layout)
    path = layout.absolute(kept.path)
    assert verify(path, kept.path, kept.checksum.sha256) == kept.checksum.size_bytes
    flip(path, at)
    with pytest.raises(StoredFileChanged, match=kept.path):
        verify(path, kept.path, kept.checksum.sha256)


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data + b"\0", lambda _: b"", lambda _: b"x" * 99]
)
def test_a_stored_image_of_another_length_is_found(layout, change):
    kept = keep(layout)
    path = layout.absolute(kept.path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(StoredFileChanged, match=kept.path):
        verify(path, kept.path, kept.checksum.sha256)


def test_another_file_with_a_checksum_of_its_own_is_found(layout):
    kept, other = keep(layout, 1), keep(layout, 2)
    layout.absolute(kept.path).write_bytes(layout.absolute(other.path).read_bytes())
    verify(layout.absolute(kept.path), kept.path)
    with pytest.raises(StoredFileChanged):
        verify(layout.absolute(kept.path), kept.path, kept.checksum.sha256)


def test_what_comes_again_takes_the_place_of_the_damaged_file(layout):
    kept = keep(layout)
    path = layout.absolute(kept.path)
    good = path.read_bytes()[-4000:]
    flip(path, -10)
    assert keep(layout).outcome is Outcome.DUPLICATE
    verify(path, kept.path, kept.checksum.sha256)
    assert path.read_bytes()[-4000:] == good
    assert keep(layout).outcome is Outcome.DUPLICATE
    assert list(layout.incoming.iterdir()) == []


def test_the_scrub_reads_everything_at_its_rate_and_goes_on_after_a_restart(layout):
    files = [keep(layout, number, bytes(99_000)) for number in range(20)]
    scrubber = Scrubber(layout, 0.5)
    assert [scrubber.run(1), Scrubber(layout, 0.5).run(1), Scrubber(layout, 0.5).run(1)] == [6, 6, 6]
    assert Scrubber(layout, 0.5).run(1) == 2
    bad = layout.absolute(files[7].path)
    flip(bad, -5)
    with pytest.raises(StoredFileChanged, match=files[7].path):
        scrubber.run(100)
    with pytest.raises(StoredFileChanged):
        scrubber.run(100)
    bad.unlink()
    assert scrubber.run(100) == 19


def test_a_report_carries_its_checksum_and_is_not_sent_when_it_changed(tmp_path):
    (source,) = write(tmp_path / "in", [ct(0)])
    folder = tmp_path / "reports"
    folder.mkdir()
    path = folder / "report.dcm"
    path.write_bytes(with_checksum(source.read_bytes()))
    assert dcmread(path).PatientID == dcmread(source).PatientID
    assert dcmread(path).file_meta.TransferSyntaxUID == dcmread(source).file_meta.TransferSyntaxUID

    class Form:
        path = "reports/report.dcm"

    item = DeliveryItem(tmp_path, Form())
    assert item.path_of(Form()) == path
    flip(path, -5)
    with pytest.raises(Refused, match=r"reports/report\.dcm has changed"):
        item.path_of(Form())
    with pytest.raises(Permanent):
        verify(path, "x")
    path.write_bytes(source.read_bytes())
    assert item.path_of(Form()) == path
