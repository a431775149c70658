"""Series that are small to send and costly to read, through a whole node: memory and time are bounded, no other waits.

Each kind is sent by a scanner over the network, scored and reported, or parked with a reason; then an ordinary series
has to be delivered.
"""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import yaml
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless, generate_uid
from pynetdicom import AE, _config

from dicom_qa_node.config import Config, load_config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.phantom import ct_series
from tests.conftest import ROOT
from tests.processes import processor_s, signal_all

pytestmark = [
    pytest.mark.full,
    pytest.mark.serial,
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom"),
]

S = SeriesState
AT_REST = (S.DELIVERED, S.PARKED)
MOST_RECEIVER_MB, MOST_SCORER_MB, MOST_DECODER_MB = 150, 2500, 3100
#: Processor time of the whole node for one hostile series; an ordinary one of ten slices needs some three seconds.
MOST_CPU_S = 30.0
SLICES = 5


def _flushed(data: bytes, level: int = 9) -> bytes:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush(zlib.Z_FULL_FLUSH)


@dataclass
class Kind:
    """How a data set is encoded, and what is done to its images and to their bytes."""

    syntax: str = str(ExplicitVRLittleEndian)
    change: Callable[[Dataset], None] = lambda ds: None
    encoded: Callable[[bytes], bytes] = lambda data: data
    parked: bool = False


def _pixel_head(length: int) -> bytes:
    return struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, length)


def _before_pixels(data: bytes, more: bytes) -> bytes:
    at = data.index(struct.pack("<HH2sH", 0x7FE0, 0x10, b"OW", 0))
    return data[:at] + more + data[at:]


def _deflated_gibibyte(data: bytes) -> bytes:
    """Make of the pixel data 1 GiB of zeros, a megabyte of which is compressed once."""
    at = data.index(struct.pack("<HH2sH", 0x7FE0, 0x10, b"OW", 0))
    return _flushed(data[:at] + _pixel_head(1 << 30)) + _flushed(bytes(1 << 20)) * 1024 + b"\x03\x00"


def _rle_of_zeros(side: int) -> Callable[[Dataset], None]:
    """Make of an image ``side`` x ``side`` pixels of 32 bits: zeros in a 64th of their bytes."""

    def change(ds: Dataset) -> None:
        segment = b"\x81\x00" * (side * side // 128)
        offsets = [64 + len(segment) * index for index in range(4)]
        ds.Rows = ds.Columns = side
        ds.BitsAllocated = ds.BitsStored = 32
        ds.HighBit = 31
        ds.PixelData = encapsulate([struct.pack("<16L", 4, *offsets, *[0] * 11) + segment * 4])
        ds["PixelData"].is_undefined_length = True

    return change


def _two_billion_frames(ds: Dataset) -> None:
    ds.NumberOfFrames = 2_000_000_000


def _large_matrix(ds: Dataset) -> None:
    ds.Rows = ds.Columns = 65_535


def _nested(depth: int, group: int, number: int) -> bytes:
    """Return the element of a sequence so deep, whose lengths are all defined."""
    inner = b""
    for _ in range(depth):
        item = struct.pack("<HHL", 0xFFFE, 0xE000, len(inner)) + inner
        inner = struct.pack("<HH2sHL", group, number, b"SQ", 0, len(item)) + item
    return inner


def _deep_derivation(data: bytes) -> bytes:
    """Insert a Derivation Code Sequence (0008,9215) 5,000 deep before the patient."""
    at = data.index(b"\x10\x00\x10\x00PN")
    return data[:at] + _nested(5000, 0x0008, 0x9215) + data[at:]


def _items(count: int) -> bytes:
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * count
    return struct.pack("<HH2sHL", 0x7001, 0x1001, b"SQ", 0, len(items)) + items


KINDS = {
    "deflated pixels of 1 GiB": Kind(str(DeflatedExplicitVRLittleEndian), encoded=_deflated_gibibyte),
    "RLE frames of 64 MiB": Kind(str(RLELossless), _rle_of_zeros(4096)),
    "RLE frames of 256 MiB": Kind(str(RLELossless), _rle_of_zeros(8192), parked=True),
    "two billion frames": Kind(change=_two_billion_frames, parked=True),
    "65,535 rows and columns": Kind(change=_large_matrix, parked=True),
    "a private sequence 5,000 deep": Kind(encoded=lambda data: _before_pixels(data, _nested(5000, 0x7001, 0x1001))),
    "a known sequence 5,000 deep": Kind(encoded=_deep_derivation),
    "200,000 empty items": Kind(encoded=lambda data: _before_pixels(data, _items(200_000))),
    "a private value of 30 MB": Kind(
        encoded=lambda data: _before_pixels(
            data, struct.pack("<HH2sHL", 0x7001, 0x1001, b"OB", 0, 30 << 20) + bytes(30 << 20)
        )
    ),
}


def series_files(folder: Path, kind: Kind | None) -> tuple[str, list[Path]]:
    """Write a series and return its UID and files."""
    folder.mkdir()
    uid, study, paths = generate_uid(), generate_uid(), []
    for number, ds in enumerate(ct_series(7, slices=SLICES if kind else 10, rows=128)):
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.SOPInstanceUID = uid, study, generate_uid()
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"{number}.dcm"
        if kind is not None:
            kind.change(ds)
            if kind.syntax == RLELossless:
                ds.file_meta.TransferSyntaxUID = RLELossless
        ds.save_as(path, enforce_file_format=True)
        if kind is not None:
            _encode_anew(path, kind)
        paths.append(path)
    return uid, paths


def _encode_anew(path: Path, kind: Kind) -> None:
    data = path.read_bytes()
    start = 144 + struct.unpack_from("<L", data, 140)[0]
    meta, body = data[:start], kind.encoded(data[start:])
    if kind.syntax == DeflatedExplicitVRLittleEndian:
        old, new = ExplicitVRLittleEndian.encode() + b"\0", kind.syntax.encode()
        at = meta.index(struct.pack("<H", len(old)) + old)
        meta = meta[:at] + struct.pack("<H", len(new)) + new + meta[at + 2 + len(old) :]
        meta = meta[:140] + struct.pack("<L", len(meta) - 144) + meta[144:]
    path.write_bytes(meta + body)


@dataclass
class Node:
    """A whole node in a folder of its own, and the most memory of each of its processes."""

    config: Config
    log: Path
    process: subprocess.Popen[bytes]
    peak_mb: Counter[str] = field(default_factory=Counter)

    def look(self) -> list[psutil.Process]:
        """Note the peaks (VmHWM) of all processes, and return them."""
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        found = psutil.Process(self.process.pid).children(recursive=True)
        for child in found:
            try:
                role, status = child.cmdline()[-1], Path(f"/proc/{child.pid}/status").read_text()
            except (psutil.Error, OSError, IndexError):
                continue
            if "VmHWM:" in status:
                self.peak_mb[role] = max(self.peak_mb[role], int(status.split("VmHWM:")[1].split()[0]) >> 10)
        return found


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    settings = {
        "database_url": f"sqlite:///{folder}/q.db",
        "spool_dir": str(folder / "spool"),
        "receive": {"host": "127.0.0.1", "port": free_port(), "processes": 2},
        "web": {"port": free_port()},
        "spool": {"min_free_mb": 1, "resume_free_mb": 1},
        "complete": {"quiet_s": 2, "pair_wait_s": 3},
        "score": {"threads": 1},
        "deliver": {"targets": [{"kind": "folder", "name": "reports", "path": str(folder / "reports")}]},
    }
    path, log = folder / "config.yaml", folder / "node.log"
    path.write_text(yaml.safe_dump(settings))
    with log.open("wb") as sink:
        command = [sys.executable, "-m", "dicom_qa_node", "--config", str(path), "serve"]
        process = subprocess.Popen(command, stdout=sink, stderr=sink, cwd=ROOT)
    yield Node(load_config(path), log, process)
    if process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        signal_all(children)


def send(node: Node, paths: list[Path], syntax: str) -> list[int]:
    """Send files byte by byte and return the statuses."""
    ae = AE("SCANNER")
    ae.add_requested_context("1.2.840.10008.5.1.4.1.1.2", syntax)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 120
    assoc = ae.associate("127.0.0.1", node.config.receive.port)
    assert assoc.is_established
    statuses = [int(assoc.send_c_store(path).Status) for path in paths]
    assoc.release()
    return statuses


def at_rest(node: Node, uid: str, poll: Callable[..., object]) -> tuple[SeriesState, str]:
    """Wait for a series and return its state and the reason if it is parked."""
    database = Database(node.config.database_url)
    try:
        registry = Registry(database)
        row = poll(
            lambda: node.look() and (row := registry.series(uid)) is not None and row.state in AT_REST and row,
            120, f"rest of {uid}",
        )  # fmt: skip
        return row.state, row.parked_reason
    finally:
        database.close()


@pytest.mark.parametrize("name", KINDS)
def test_a_costly_series_has_its_bounds_and_the_next_one_its_report(
    node: Node, poll: Callable[..., object], listening: Callable[[int], bool], tmp_path: Path, monkeypatch, name: str
) -> None:
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
    poll(lambda: node.look() is not None and listening(node.config.receive.port), 120, "the receiver")
    poll(lambda: node.look() is not None and "event=model_ready" in node.log.read_text(), 240, "the scorer")
    kind = KINDS[name]
    uid, paths = series_files(tmp_path / "hostile", kind)
    before = processor_s(node.look())
    statuses = send(node, paths, kind.syntax)
    assert set(statuses) <= {0x0000, 0xC000}, statuses
    state, reason = (S.PARKED, "refused") if 0xC000 in statuses else at_rest(node, uid, poll)
    cpu_s = processor_s(node.look()) - before
    healthy, paths = series_files(tmp_path / "healthy", None)
    began = time.monotonic()
    assert set(send(node, paths, str(ExplicitVRLittleEndian))) == {0}
    assert at_rest(node, healthy, poll)[0] is S.DELIVERED
    print(f"{name}: {state.value} {reason!r}, {cpu_s:.1f} s of processor, the next after "
          f"{time.monotonic() - began:.1f} s, {dict(node.peak_mb)}")  # fmt: skip
    assert cpu_s < MOST_CPU_S
    assert (state is S.PARKED) == bool(reason)
    assert kind.parked == (state is S.PARKED), (state, reason)
    assert node.peak_mb["receive"] < MOST_RECEIVER_MB
    assert node.peak_mb["score"] < MOST_SCORER_MB
    assert max([node.peak_mb[role] for role in node.peak_mb if role.endswith("decoders")], default=0) < MOST_DECODER_MB
    text = node.log.read_text()
    assert "Traceback" not in text
    assert "event=role_ended" not in text
