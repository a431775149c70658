"""The receiver against DCMTK: what real modalities and workstations are built on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import generate_uid

from dicom_qa_node.config import Config, Peer
from dicom_qa_node.dicom_io.part10 import open_envelope
from tests.integration.receive_peer import MakeReceiver, Receiver, receiver_fixture
from tests.unit.encoded_images import EXPLICIT, ct, encoded

pytestmark = [pytest.mark.integration, pytest.mark.peers("storescu", "echoscu", "dcmconv")]
RunTool = Callable[..., subprocess.CompletedProcess[str]]
SYNTAX_OPTIONS = {
    "1.2.840.10008.1.2": "-xi",
    EXPLICIT: "-xe",
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.2": "-xb",
}


@pytest.fixture
def make_receiver(tmp_path: Path, node_config: Config) -> Iterator[MakeReceiver]:
    yield from receiver_fixture(tmp_path, node_config)


def write_series(folder: Path, count: int, rows: int = 128) -> list[pydicom.Dataset]:
    folder.mkdir(parents=True)
    series = generate_uid()
    images = [ct(SeriesInstanceUID=series, InstanceNumber=number, rows=rows) for number in range(1, count + 1)]
    for number, ds in enumerate(images):
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = EXPLICIT
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.save_as(folder / f"{number:03}.dcm", enforce_file_format=True)
    return images


def send(run_tool: RunTool, receiver: Receiver, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run_tool("storescu", *options, "+sd", "-aec", "DICOMQA", "127.0.0.1", receiver.port, folder)


def test_echo(make_receiver: MakeReceiver, run_tool: RunTool) -> None:
    receiver = make_receiver()
    assert run_tool("echoscu", "127.0.0.1", receiver.port).returncode == 0


@pytest.mark.parametrize(("syntax", "option"), SYNTAX_OPTIONS.items())
def test_a_series_in_every_uncompressed_syntax(
    make_receiver: MakeReceiver, run_tool: RunTool, poll: Callable[..., Any], tmp_path: Path, syntax: str, option: str
) -> None:
    receiver = make_receiver()
    images = write_series(tmp_path / "images", 10)
    if option == "-xb":
        # storescu proposes big endian beside the others and sends a file in the syntax that it has.
        for path in (tmp_path / "images").iterdir():
            run_tool("dcmconv", "+tb", path, path, check=True)
    done = send(run_tool, receiver, tmp_path / "images", option, "-v")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Success") + done.stdout.count("Success") >= 10
    rows = poll(lambda: len(found := receiver.rows(images[0].SeriesInstanceUID)) == 10 and found)
    assert {row.transfer_syntax_uid for row in rows} == {syntax}
    for ds in images:
        stored = pydicom.dcmread(receiver.layout.instance(str(ds.SOPInstanceUID)))
        assert stored.PatientName == ds.PatientName
        assert stored.PixelData == (ds.PixelData if syntax != "1.2.840.10008.1.2.2" else swapped(ds.PixelData))


def swapped(data: bytes) -> bytes:
    return b"".join(data[at + 1 : at + 2] + data[at : at + 1] for at in range(0, len(data), 2))


@pytest.mark.parametrize("pdu", [4096, 16384, 131072])
def test_small_and_large_pdus(make_receiver: MakeReceiver, run_tool: RunTool, tmp_path: Path, pdu: int) -> None:
    receiver = make_receiver()
    images = write_series(tmp_path / "images", 3, rows=256)
    assert send(run_tool, receiver, tmp_path / "images", "--max-send-pdu", str(pdu), "-pdu", "4096").returncode == 0
    for ds in images:
        content = receiver.layout.instance(str(ds.SOPInstanceUID)).read_bytes()
        assert content[open_envelope(content).data_start :] == encoded(ds)


def test_a_sender_that_aborts_keeps_what_was_acknowledged(
    make_receiver: MakeReceiver, run_tool: RunTool, poll: Callable[..., Any], tmp_path: Path
) -> None:
    receiver = make_receiver()
    images = write_series(tmp_path / "images", 4)
    send(run_tool, receiver, tmp_path / "images", "--abort")
    poll(lambda: len(receiver.rows(images[0].SeriesInstanceUID)) == 4)
    with receiver.registry() as registry:
        poll(lambda: [item.open_associations for item in registry.receiving()] == [0])


def test_a_peer_off_the_list_is_told_so(make_receiver: MakeReceiver, run_tool: RunTool, tmp_path: Path) -> None:
    receiver = make_receiver(peers=[Peer(ae_title="CT1")], allow_unknown_peers=False)
    write_series(tmp_path / "images", 1)
    done = send(run_tool, receiver, tmp_path / "images", "-aet", "STRANGER")
    assert done.returncode != 0
    assert "Calling AE Title Not Recognized" in done.stderr + done.stdout
    assert send(run_tool, receiver, tmp_path / "images", "-aet", "CT1").returncode == 0


def test_four_senders_at_once(
    make_receiver: MakeReceiver, background: Callable[..., Any], poll: Callable[..., Any], tmp_path: Path
) -> None:
    receiver = make_receiver(processes=2)
    folders = [tmp_path / f"images{number}" for number in range(4)]
    series = [write_series(folder, 15)[0].SeriesInstanceUID for folder in folders]
    senders = [background(["storescu", "+sd", "127.0.0.1", receiver.port, folder]) for folder in folders]
    assert [sender.wait(60) for sender in senders] == [0] * 4
    assert len(receiver.files()) == 60
    poll(lambda: [len(receiver.rows(uid)) for uid in series] == [15] * 4)


@pytest.mark.realdata
@pytest.mark.peers("dcmdump")
def test_the_reference_images_of_every_compressed_syntax_arrive_as_they_are(
    make_receiver: MakeReceiver, shared_data: Path
) -> None:
    from pydicom.filereader import read_file_meta_info

    from tests.integration.receive_peer import association, store_bytes

    receiver = make_receiver()
    for path in sorted((shared_data / "dicom" / "transfer_syntaxes").glob("*.dcm")):
        ds = pydicom.dcmread(path)
        syntax = str(ds.file_meta.TransferSyntaxUID)
        content = path.read_bytes()
        data = content[144 + read_file_meta_info(path).FileMetaInformationGroupLength :]
        with association(receiver, syntaxes=[syntax], sop_classes=[ds.SOPClassUID]) as assoc:
            status = store_bytes(assoc, data, str(ds.SOPClassUID), str(ds.SOPInstanceUID), syntax).Status
        rows = [file for file in receiver.layout.root.rglob("*.dcm") if file.read_bytes().endswith(data)]
        assert status == 0, path.name
        assert len(rows) == 1, path.name
        assert pydicom.dcmread(rows[0]).pixel_array.shape == ds.pixel_array.shape
