"""One odd element or UID, which archives store, costs no image: it is stored, judged and remarked upon."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.dicom_io.element_scanner import BrokenDataSet
from dicom_qa_node.dicom_io.part10 import Origin
from dicom_qa_node.domain.uids import has_leading_zero, is_valid_uid
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.receive.reconcile import reconcile
from dicom_qa_node.report.report_builder import build_report
from dicom_qa_node.report.sr_document import ReportRequest
from dicom_qa_node.spool.incoming import Outcome, SpoolWriter, stored_instance
from dicom_qa_node.spool.layout import SpoolLayout
from tests.report_samples import T0, verdict, write_series
from tests.unit.encoded_images import EXPLICIT

TAG = struct.pack("<HH", 0x0018, 0xA001)
SHORT = [b"??", b"lo", b"  ", b"\0\0", b"--", b"1A"]
LONG = [b"XX", b"OX", b"ZZ"]
ODD = [pytest.param(TAG + vr + struct.pack("<H", 4) + b"abcd", id=repr(vr)) for vr in SHORT]
ODD += [pytest.param(TAG + vr + struct.pack("<HL", 0, 4) + b"abcd", id=repr(vr)) for vr in LONG]


@pytest.fixture
def image(tmp_path):
    (item,) = write_series(tmp_path / "made", slices=1)
    return dcmread(tmp_path / "made" / item.path)


@pytest.fixture
def layout(tmp_path):
    layout = SpoolLayout(tmp_path / "spool")
    layout.create()
    return layout


def encoded(ds, element=b""):
    """Return the data set with an element put before group 0020."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, ds)
    data = buffer.getvalue()
    at = data.index(struct.pack("<HH", 0x0020, 0x000D))
    return data[:at] + element + data[at:]


def received(layout, ds, data):
    origin = Origin(str(ds.SOPClassUID), str(ds.SOPInstanceUID), EXPLICIT, "CT1", "DICOMQA", "a" * 32)
    incoming = SpoolWriter(layout).begin(origin)
    incoming.write(data)
    try:
        facts = incoming.facts()
    except BrokenDataSet:
        incoming.discard()
        raise
    kept = incoming.keep()
    return kept, stored_instance(kept, origin, facts)


@pytest.mark.parametrize("element", ODD)
def test_an_unknown_vr_is_stored_under_one_that_every_reader_knows(layout, image, element):
    kept, item = received(layout, image, encoded(image, element))
    assert kept.outcome is Outcome.NEW
    assert item.remark == "unknown value representation of (0018,A001)"
    read = dcmread(layout.absolute(kept.path))
    assert read.SeriesInstanceUID == image.SeriesInstanceUID
    assert read.PixelData == image.PixelData
    assert bytes(read.get_item(0x0018A001).value).startswith(b"abcd")
    again, _ = received(layout, image, encoded(image, element))
    assert again.outcome is Outcome.DUPLICATE


def test_the_registry_is_made_from_it_again(layout, image, tmp_path):
    received(layout, image, encoded(image, TAG + b"??" + struct.pack("<H", 4) + b"abcd"))
    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    assert reconcile(layout, Registry(database)).damaged == 0
    assert Registry(database).series(str(image.SeriesInstanceUID)).received == 1
    database.close()


@pytest.mark.parametrize(
    "element",
    [
        pytest.param((TAG + b"??" + struct.pack("<H", 4) + b"abcd") * 9, id="many"),
        pytest.param(TAG + b"??" + struct.pack("<H", 0xFFF0) + b"abcd", id="beyond the end"),
        pytest.param(struct.pack("<HH", 0x0010, 0x0020) + b"??" + struct.pack("<H", 4) + b"abcd", id="out of order"),
        pytest.param(struct.pack("<HH", 0xFFFE, 0xE000) + b"??" + struct.pack("<H", 4) + b"abcd", id="an item"),
    ],
)
def test_damaged_bytes_are_no_oddity(layout, image, element):
    with pytest.raises(BrokenDataSet):
        received(layout, image, encoded(image, element))


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_uids_with_leading_zeros_are_stored_reported_and_remarked_upon(layout, tmp_path):
    assert has_leading_zero("1.2.03.4")
    assert not has_leading_zero("1.2.0.30")
    assert not is_valid_uid("1.2.03.4")
    images = []
    for item in write_series(tmp_path / "made", slices=3):
        ds = dcmread(tmp_path / "made" / item.path)
        ds.SOPInstanceUID, ds.SeriesInstanceUID = f"1.2.03.{len(images)}1", "1.2.003"
        images.append(ds)
    stored = [received(layout, ds, encoded(ds))[1] for ds in images]
    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    registry = Registry(database)
    registry.record(stored[:1])
    registry.record(stored[1:])
    remarks = [event["reason"] for event in registry.history("1.2.003")]
    assert remarks == ["stored with UIDs with leading zeros (PS3.5 9.1)"]
    content = build_report(ReportRequest(verdict(stored), 1, T0), stored, layout.root, Config())
    (study,) = dcmread(BytesIO(content)).CurrentRequestedProcedureEvidenceSequence
    assert study.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.003"
    database.close()
