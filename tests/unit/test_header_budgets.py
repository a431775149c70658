"""Every header is read within a budget of memory and time, whatever a peer sends."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicom_qa_node.dicom_io.element_scanner import BrokenDataSet, HeaderBudget, HeaderTooCostly, encoding_of, scan
from dicom_qa_node.dicom_io.instance_header import read_instance_header
from tests.hostile_data_sets import HOSTILE, deflate, element, head
from tests.measured_process import measured

UID = "1.2.826.0.1.3680043.10.999.7"
MOST_MB, MOST_CPU_S = 24, 3.0
SOP = 0x00080018


def read_file(path: str, syntax: str) -> str:
    """Read the facts of a file as the receiver does; called in a process of its own."""
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return read_instance_header(data, 0, syntax).sop_instance_uid


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_costly_header_is_refused_for_little_memory_and_time(kind: str, tmp_path: Path) -> None:
    syntax, make = HOSTILE[kind]
    path = tmp_path / "data_set"
    path.write_bytes(make(UID))
    found = measured(__name__, "read_file", path, syntax)
    assert found.outcome.split(":")[0] in ("HeaderTooCostly", "BrokenDataSet"), found
    # A mapped file counts as memory where its pages were read, which costs the node nothing.
    read_mb = 0 if syntax == DeflatedExplicitVRLittleEndian else path.stat().st_size / (1 << 20)
    assert found.grown_mb < MOST_MB + read_mb, found
    assert found.cpu_s < MOST_CPU_S, found


def test_the_budget_of_a_deflated_header_grows_with_what_was_received() -> None:
    small, large = (HeaderBudget.for_received(size, deflated=True) for size in (1000, 100_000_000))
    assert (small.top_level, small.nested) == (5096, 5096)
    assert (large.top_level, large.nested, large.inflated_bytes) == (32_768, 1_000_000, 64 << 20)


def test_a_long_private_value_before_the_pixels_is_no_reason_to_refuse() -> None:
    data = head(UID) + element(0x29, 0x1010, b"OB", bytes(8 << 20)) + element(0x7FE0, 0x10, b"OW", b"\0\0")
    assert read_instance_header(data, 0, "1.2.840.10008.1.2.1").sop_instance_uid == UID
    assert read_instance_header(deflate(data, bytes(4096)), 0, DeflatedExplicitVRLittleEndian).sop_instance_uid == UID


@pytest.mark.parametrize("length", [65536, 65538])
def test_a_wanted_value_has_a_longest_length(length: int) -> None:
    data = head(UID, element(8, 0x1030, b"UT", b"x" * length)) + element(0x7FE0, 0x10, b"OW", b"\0\0")
    plain, packed = (encoding_of(uid) for uid in ("1.2.840.10008.1.2.1", DeflatedExplicitVRLittleEndian))
    for content, encoding in ((data, plain), (deflate(data), packed)):
        if length <= 65536:
            assert len(scan(content, 0, encoding, {0x00081030}).values[0x00081030]) == length
        else:
            with pytest.raises(HeaderTooCostly, match="00081030"):
                scan(content, 0, encoding, {0x00081030})


@pytest.mark.parametrize("cut", [0, 1, 10, 200])
def test_a_deflated_header_that_is_cut_off_is_broken(cut: int) -> None:
    data = deflate(head(UID))
    with pytest.raises(BrokenDataSet, match="ends before its pixel data"):
        scan(data[: len(data) - cut], 0, encoding_of(DeflatedExplicitVRLittleEndian), {SOP})
