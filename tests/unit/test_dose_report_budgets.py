"""A dose report is read in the receiver: within a budget of memory and time, whatever its content sequence holds."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_qa_node.dose.report_reader import LARGEST_BYTES, read_report
from tests.hostile_data_sets import element
from tests.measured_process import measured

DOSE_SR = "1.2.840.10008.5.1.4.1.1.88.67"
MOST_MB, MOST_CPU_S = 96, 6.0
MIB = 1 << 20
_ITEM, _END_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_UNDEFINED = 0xFFFFFFFF


def item(value: bytes) -> bytes:
    return struct.pack("<HHL", *_ITEM, len(value)) + value


def content(value: bytes, *, defined: bool = True) -> bytes:
    """Return a Content Sequence (0040,A730)."""
    length = len(value) if defined else _UNDEFINED
    end = b"" if defined else struct.pack("<HHL", *_END, 0)
    return struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, length) + value + end


def nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        inner = content(item(inner))
    return inner


def report(path: Path, body: bytes) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(DOSE_SR), UID("1.2.3")
    meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, UID("2.25.1")
    meta.FileMetaInformationVersion = b"\0\1"
    buffer = DicomBytesIO()
    buffer.write(bytes(128) + b"DICM")
    write_file_meta_info(buffer, meta)
    head = element(8, 0x16, b"UI", DOSE_SR.encode()) + element(8, 0x18, b"UI", b"1.2.3")
    head += element(0x20, 0xD, b"UI", b"1.2.4")
    path.write_bytes(buffer.getvalue() + head + body)


def code(value: bytes) -> bytes:
    """Return a Concept Name Code Sequence (0040,A043)."""
    inside = item(element(8, 0x100, b"SH", value) + element(8, 0x102, b"SH", b"DCM"))
    return struct.pack("<HH2sHL", 0x0040, 0xA043, b"SQ", 0, len(inside)) + inside


_EMPTY_ELEMENT = struct.pack("<HH2sH", 0x0040, 0xA160, b"UT", 0)[:6] + b"\0\0" + bytes(4)

_MOST = LARGEST_BYTES - 64 * 1024
_ACQUISITION = code(b"113819")
_CODED = item(code(b"113830"))

COSTLY: dict[str, Callable[[], bytes]] = {
    "empty items": lambda: content(item(b"") * (_MOST // 8)),
    "empty items without a length": lambda: content(item(b"") * (_MOST // 8), defined=False),
    "empty items in one item": lambda: content(item(content(item(b"") * (_MOST // 8)))),
    "5,000 levels": lambda: nested(5000),
    "items of empty elements": lambda: content(item(_EMPTY_ELEMENT * 1000) * (_MOST // 12_008)),
    "acquisitions": lambda: content(item(_ACQUISITION) * (_MOST // (8 + len(_ACQUISITION)))),
    "acquisitions of coded items": lambda: content(
        item(_ACQUISITION + content(_CODED * 100)) * (_MOST // (100 * len(_CODED) + 100))
    ),
    "acquisitions of empty items": lambda: content(item(_ACQUISITION + content(item(b"") * 1000)) * (_MOST // 8200)),
    "a long text": lambda: content(item(element(0x40, 0xA160, b"UT", b"x" * _MOST))),
    "codes in one item": lambda: content(item(code(b"1") * (_MOST // 60))),
}


def read(path: str) -> str:
    """Read a report; called in a process of its own."""
    return read_report(Path(path)).study_instance_uid


@pytest.mark.parametrize("kind", COSTLY)
def test_a_costly_report_is_read_or_refused_for_little_memory_and_time(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    report(path, COSTLY[kind]())
    assert path.stat().st_size < LARGEST_BYTES
    found = measured(__name__, "read", path)
    assert found.outcome.split(":")[0] in ("UnreadableReport", "NoDoseReport", "'1.2.4'"), found.outcome[:200]
    assert found.grown_mb < MOST_MB, found
    assert found.cpu_s < MOST_CPU_S, found
