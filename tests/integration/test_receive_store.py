from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless, generate_uid

from dicom_qa_node.config import Config
from dicom_qa_node.dicom_io.part10 import open_envelope
from dicom_qa_node.receive.services import STORAGE_CLASSES, TRANSFER_SYNTAXES
from tests.integration.receive_peer import MakeReceiver, association, receiver_fixture, store, store_bytes
from tests.unit.encoded_images import EXPLICIT, ct, encoded

pytestmark = pytest.mark.integration
SUCCESS = 0


@pytest.fixture
def make_receiver(tmp_path: Path, node_config: Config) -> Iterator[MakeReceiver]:
    yield from receiver_fixture(tmp_path, node_config)


def test_an_image_is_durable_recorded_and_its_association_ends(
    make_receiver: MakeReceiver, poll: Callable[..., Any]
) -> None:
    receiver = make_receiver()
    series = generate_uid()
    images = [ct(SeriesInstanceUID=series, InstanceNumber=number, rows=64) for number in range(1, 6)]
    with association(receiver) as assoc:
        for ds in images:
            assert store(assoc, ds).Status == SUCCESS
            assert any(path.read_bytes().endswith(encoded(ds)) for path in receiver.files())
        rows = poll(lambda: len(found := receiver.rows(series)) == 5 and found)
        with receiver.registry() as registry:
            assert [item.open_associations for item in registry.receiving()] == [1]
    assert {row.sop_instance_uid for row in rows} == {ds.SOPInstanceUID for ds in images}
    assert {row.calling_ae for row in rows} == {"SCANNER"}
    assert sorted(row.instance_number or 0 for row in rows) == [1, 2, 3, 4, 5]
    with receiver.registry() as registry:
        poll(lambda: [item.open_associations for item in registry.receiving()] == [0])
    assert receiver.stop() == 0


def test_every_class_and_syntax_is_kept_byte_for_byte(make_receiver: MakeReceiver) -> None:
    receiver = make_receiver()
    rng = np.random.default_rng(3)
    for syntax in map(str, TRANSFER_SYNTAXES):
        with association(receiver, syntaxes=[syntax], sop_classes=STORAGE_CLASSES) as assoc:
            assert len(assoc.accepted_contexts) == len(STORAGE_CLASSES)
            for sop_class in STORAGE_CLASSES:
                ds = ct(SOPClassUID=sop_class)
                data = encoded(ds, syntax if syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.2") else EXPLICIT)
                if syntax == "1.2.840.10008.1.2.1.99":
                    data = encoded(ds, syntax)
                elif pydicom.uid.UID(syntax).is_encapsulated:
                    data = encapsulated(data, rng.bytes(999))
                assert store_bytes(assoc, data, sop_class, str(ds.SOPInstanceUID), syntax).Status == SUCCESS
                path = receiver.layout.instance(str(ds.SOPInstanceUID))
                content = path.read_bytes()
                envelope = open_envelope(content)
                assert content[envelope.data_start :] == data
                assert pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax


def encapsulated(data: bytes, frame: bytes) -> bytes:
    """Replace the native pixel data of an explicit VR data set by one encapsulated fragment (PS3.5 A.4)."""
    head = data[: data.index(bytes.fromhex("e07f1000"))]
    item = bytes.fromhex("feff00e0")
    body = item + bytes(4) + item + (len(frame) + 1).to_bytes(4, "little") + frame + b"\0"
    return head + bytes.fromhex("e07f1000") + b"OB\0\0\xff\xff\xff\xff" + body + bytes.fromhex("feffdde000000000")


def test_a_resend_is_success_and_stored_once(make_receiver: MakeReceiver, poll: Callable[..., Any]) -> None:
    receiver = make_receiver(processes=2)
    ds = ct()
    for _ in range(3):
        with association(receiver) as assoc:
            assert store(assoc, ds).Status == SUCCESS
    assert len(receiver.files()) == 1
    poll(lambda: len(receiver.rows(ds.SeriesInstanceUID)) == 1)


def test_other_bytes_under_a_stored_uid_are_flagged(make_receiver: MakeReceiver, poll: Callable[..., Any]) -> None:
    receiver = make_receiver()
    ds = ct()
    with association(receiver) as assoc:
        assert store(assoc, ds).Status == SUCCESS
        first = receiver.files()[0].read_bytes()
        ds.InstanceNumber = 77
        assert store(assoc, ds).Status == SUCCESS
    assert [path.read_bytes() for path in receiver.files()] == [first]
    rows = poll(lambda: len(found := receiver.rows(ds.SeriesInstanceUID)) == 2 and found)
    assert [row.conflict for row in rows] == [False, True]
    assert receiver.layout.absolute(rows[1].path).read_bytes().endswith(encoded(ds))


def refused() -> dict[str, tuple[bytes, str, str, int]]:
    """Objects that cannot be accepted: data set, SOP class and instance of the request, status."""
    ds = ct()
    data, sop_class, sop_instance = encoded(ds), str(ds.SOPClassUID), str(ds.SOPInstanceUID)
    no_uid = b"../" * (len(sop_instance) // 3) + b"x" * (len(sop_instance) % 3)
    other_class = encoded(ct(SOPClassUID="1.2.840.10008.5.1.4.1.1.128", SOPInstanceUID=sop_instance))
    no_pixels = encoded(ct(PixelData=None, SOPInstanceUID=sop_instance))
    return {
        "garbage": (b"this is no data set, whatever it says" * 10, sop_class, sop_instance, 0xC000),
        "truncated": (data[:-20], sop_class, sop_instance, 0xC000),
        "other class": (other_class, sop_class, sop_instance, 0xA900),
        "other instance": (encoded(ct()), sop_class, sop_instance, 0x0117),
        "no uid in the data set": (data.replace(sop_instance.encode(), no_uid), sop_class, sop_instance, 0x0117),
        "path as uid in the request": (data, sop_class, "../../../../tmp/evil", 0x0117),
        "empty": (b"\0\0", sop_class, sop_instance, 0xC000),
        "no pixels": (no_pixels, sop_class, sop_instance, 0xC000),
    }


def test_what_cannot_be_accepted_is_refused_by_name_and_kept_with_a_reason(
    make_receiver: MakeReceiver, poll: Callable[..., Any]
) -> None:
    receiver = make_receiver()
    wrong = refused()
    with association(receiver) as assoc:
        for name, (data, sop_class, sop_instance, status) in wrong.items():
            assert store_bytes(assoc, data, sop_class, sop_instance).Status == status, name
        assert store(assoc, ct()).Status == SUCCESS, "the association goes on"
    with receiver.registry() as registry:
        held = poll(lambda: len(rows := registry.quarantined()) == len(wrong) and rows)
    kept = [receiver.layout.absolute(row.path).read_bytes() for row in held]
    for name, (data, *_) in wrong.items():
        assert any(content.endswith(data) for content in kept), name
    assert all(row.reason and row.calling_ae == "SCANNER" for row in held)
    assert not list(receiver.layout.incoming.iterdir())
    assert len(receiver.files()) == 1


def test_a_full_disk_is_a700_until_there_is_room_again(make_receiver: MakeReceiver) -> None:
    receiver = make_receiver(fault="disk-full")
    ds = ct(rows=64)
    with association(receiver) as assoc:
        for _ in range(2):
            assert store(assoc, ds).Status == 0xA700
        assert not receiver.files()
        assert not list(receiver.layout.incoming.iterdir())
        (receiver.folder / "disk-has-room").touch()
        assert store(assoc, ds).Status == SUCCESS


def test_a_name_of_a_patient_is_in_no_log_line(make_receiver: MakeReceiver) -> None:
    receiver = make_receiver()
    with association(receiver) as assoc:
        store(assoc, ct(PatientName="Secret^Name", PatientID="SECRETID"))
        store_bytes(assoc, encoded(ct(PatientName="Secret^Name"))[:-9], str(ct().SOPClassUID), "1.2.3")
    receiver.stop()
    log = receiver.log.read_text()
    assert "event=refused" in log
    assert "secret" not in log.lower()


def test_an_object_larger_than_the_memory_allowed_is_received(make_receiver: MakeReceiver) -> None:
    receiver = make_receiver()
    ds = ct()
    ds.NumberOfFrames = 400
    ds.Rows = ds.Columns = 512
    ds.PixelData = bytes(512 * 512 * 2 * 400)
    with association(receiver) as assoc:
        assert store(assoc, ds).Status == SUCCESS
    (path,) = receiver.files()
    assert path.stat().st_size > 200_000_000
    (worker,) = receiver.workers()
    for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            assert int(line.split()[1]) < 150 * 1024, line


def test_rle_of_a_real_encoder_is_kept(make_receiver: MakeReceiver) -> None:
    receiver = make_receiver()
    ds = ct(rows=64)
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = EXPLICIT
    ds.compress(RLELossless, encoding_plugin="pydicom")
    with association(receiver, syntaxes=[str(RLELossless)]) as assoc:
        data = encoded(ds)
        assert store_bytes(assoc, data, str(ds.SOPClassUID), str(ds.SOPInstanceUID), str(RLELossless)).Status == SUCCESS
    assert pydicom.dcmread(receiver.files()[0]).pixel_array.shape == (64, 64)
