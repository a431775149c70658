"""A request to find or to move has a bound of memory and time, whatever its identifier holds."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_qa_node.index.attributes import GROUPED
from dicom_qa_node.index.catalogue import Catalogue, HeldSeries
from dicom_qa_node.index.find import SearchTooLong, find_entities
from dicom_qa_node.index.matching import Identifier, Key, matcher_for
from dicom_qa_node.query.identifiers import Model, UnreadableIdentifier, read_identifier
from tests.hostile_data_sets import element as explicit
from tests.measured_process import measured

MOST_MB, MOST_CPU_S = 48, 2.0
MIB = 1 << 20


def implicit(group: int, number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", group, number, len(value)) + value


LEVEL = implicit(8, 0x52, b"STUDY ")


def _nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        inner = implicit(8, 0x1140, struct.pack("<HHL", 0xFFFE, 0xE000, len(inner)) + inner)
    return inner


def _items(count: int) -> bytes:
    return implicit(8, 0x1140, struct.pack("<HHL", 0xFFFE, 0xE000, 0) * count)


def _deflated(mib: int) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    lead = explicit(8, 0x52, b"CS", b"STUDY")
    big = struct.pack("<HH2sHL", 9, 0x1001, b"OB", 0, mib * MIB)
    return compressor.compress(lead + big) + compressor.compress(bytes(mib * MIB)) + compressor.flush()


HOSTILE: dict[str, tuple[UID, Callable[[], bytes]]] = {
    "12 MB of UIDs": (
        ImplicitVRLittleEndian, lambda: LEVEL + implicit(0x20, 0xD, b"\\".join([b"1.2.3"] * 2_000_000))
    ),
    "60,000 UIDs": (ImplicitVRLittleEndian, lambda: LEVEL + implicit(0x20, 0xD, b"\\".join([b"1.2.3"] * 60_000))),
    "60,000 elements": (
        ImplicitVRLittleEndian, lambda: LEVEL + b"".join(implicit(9, n, b"") for n in range(0x1000, 0xFFFF))
    ),
    "3,000 levels": (ImplicitVRLittleEndian, lambda: LEVEL + _nested(3000)),
    "100,000 items": (ImplicitVRLittleEndian, lambda: LEVEL + _items(100_000)),
    "a name of 8 MB": (ImplicitVRLittleEndian, lambda: LEVEL + implicit(0x10, 0x10, b"*a" * 4_000_000)),
    "a name of 1,000 patterns": (
        ImplicitVRLittleEndian, lambda: LEVEL + implicit(0x10, 0x10, b"\\".join([b"*"] * 500))
    ),
    "10 MB of character sets": (
        ImplicitVRLittleEndian, lambda: LEVEL + implicit(8, 5, b"ISO_IR 100\\" * 900_000) + implicit(0x10, 0x10, b"x ")
    ),
    "1,000 character sets": (
        ImplicitVRLittleEndian, lambda: LEVEL + implicit(8, 5, b"ISO_IR 100\\" * 1000) + implicit(0x10, 0x10, b"x ")
    ),
    "a deflated gigabyte": (DeflatedExplicitVRLittleEndian, lambda: _deflated(1024)),
}  # fmt: skip


def read_file(path: str, syntax: str) -> int:
    """Read an identifier; called in a process of its own."""
    data = BytesIO(Path(path).read_bytes())
    return len(read_identifier(data, UID(syntax), Model.STUDY_ROOT, relational=False, retrieve=False).keys)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_costly_identifier_is_refused_for_little_memory_and_time(kind, tmp_path):
    syntax, make = HOSTILE[kind]
    path = tmp_path / "identifier"
    path.write_bytes(make())
    found = measured(__name__, "read_file", path, syntax)
    assert found.outcome.startswith("UnreadableIdentifier"), found
    assert found.grown_mb < MOST_MB + 2 * path.stat().st_size / MIB, found
    assert found.cpu_s < MOST_CPU_S, found


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_a_list_of_ten_thousand_uids_is_read(syntax):
    uids = [f"1.2.826.0.1.3680043.10.999.{number}" for number in range(10_000)]
    value = "\\".join(uids).encode()
    value += b"\0" * (len(value) % 2)
    if syntax == ImplicitVRLittleEndian:
        data = LEVEL + implicit(0x20, 0xD, value)
    else:
        data = explicit(8, 0x52, b"CS", b"STUDY") + struct.pack("<HH2sHL", 0x20, 0xD, b"UN", 0, len(value)) + value
    if syntax.is_deflated:
        compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        data = compressor.compress(data) + compressor.flush()
    found = read_identifier(BytesIO(data), syntax, Model.STUDY_ROOT, relational=False, retrieve=True)
    assert list(found.values("StudyInstanceUID")) == uids


def test_five_hundred_unknown_keys_are_taken_and_a_thousand_are_not():
    data = LEVEL + b"".join(implicit(9, 0x1000 + number, b"") for number in range(500))
    found = read_identifier(BytesIO(data), ImplicitVRLittleEndian, Model.STUDY_ROOT, relational=False, retrieve=False)
    assert found.unsupported
    with pytest.raises(UnreadableIdentifier):
        data += b"".join(implicit(0x11, 0x1000 + number, b"") for number in range(500))
        read_identifier(BytesIO(data), ImplicitVRLittleEndian, Model.STUDY_ROOT, relational=False, retrieve=False)


def test_a_long_list_is_matched_as_quickly_as_one_value():
    matches = matcher_for("UI", [f"1.2.{number}" for number in range(10_000)])
    assert matches is not None
    assert matches("1.2.9999")
    assert not matches("1.2.10000")


class _Endless(Catalogue):
    """A catalogue of patients without end."""

    def __init__(self) -> None:
        self.pages = 0

    def page(self, level, narrowing, after, limit=200):
        self.pages += 1
        first = int(after or "0")
        held = [HeldSeries(f"{first + n + 1:09d}", "1.2", "1.3", {"PatientName": "A"}, (), 1) for n in range(limit)]
        return [(series.patient_id, [series]) for series in held]


def test_a_search_ends_with_its_time_and_sending_does_not_count():
    assert "PATIENT" in GROUPED
    now = [0.0]

    def clock() -> float:
        now[0] += 0.01
        return now[0]

    key = Key(0x00100010, "PatientName", "PN", ("*B*",))
    with pytest.raises(SearchTooLong, match="5 s"):
        list(find_entities(_Endless(), Identifier("PATIENT", {"PatientName": key}, (), False), within_s=5, clock=clock))
    assert 4.5 < now[0] < 5.5

    now[0], found = 0.0, 0
    matching = Key(0x00100010, "PatientName", "PN", ("A",))
    search = find_entities(
        _Endless(), Identifier("PATIENT", {"PatientName": matching}, (), False), within_s=5, clock=clock
    )
    for _ in search:
        found += 1
        now[0] += 60
        if found == 100:
            break
    assert found == 100


def test_a_search_without_a_match_notices_that_its_peer_has_gone():
    looks = []

    def look() -> None:
        looks.append(1)
        if len(looks) == 10:
            raise ConnectionResetError

    key = Key(0x00100010, "PatientName", "PN", ("B",))
    with pytest.raises(ConnectionResetError):
        list(find_entities(_Endless(), Identifier("PATIENT", {"PatientName": key}, (), False), look=look))
