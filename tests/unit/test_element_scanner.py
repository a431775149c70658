from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_qa_node.dicom_io.element_scanner import BrokenDataSet, encoding_of, scan
from dicom_qa_node.dicom_io.instance_header import read_instance_header
from dicom_qa_node.domain.uids import InvalidUid
from tests.unit.encoded_images import ct, encoded

SYNTAXES = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"]
SOP, SERIES, NUMBER = 0x00080018, 0x0020000E, 0x00200013


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [False, True])
def test_finds_top_level_values_in_every_encoding(syntax: str, undefined: bool) -> None:
    ds = ct()
    for element in ds:
        if element.VR == "SQ":
            element.is_undefined_length = undefined
            for item in element.value:
                item.is_undefined_length_sequence_item = undefined
    header = scan(encoded(ds, syntax), 0, encoding_of(syntax), {SOP, SERIES, NUMBER, 0x00280010})
    assert header.text(SOP) == ds.SOPInstanceUID
    assert header.text(SERIES) == ds.SeriesInstanceUID
    assert header.integer(NUMBER) == 3
    assert header.unsigned_short(0x00280010) == 16


def test_starts_where_it_is_told() -> None:
    ds = ct()
    data = b"x" * 333 + encoded(ds)
    assert scan(data, 333, encoding_of(SYNTAXES[1]), {SOP}).text(SOP) == ds.SOPInstanceUID


def test_unknown_vr_of_undefined_length_holds_implicit_items() -> None:
    # (0009,1010) UN, undefined length, one item with one implicit VR element, sequence delimiter (PS3.5 6.2.2).
    item = bytes.fromhex("0800 1800 04000000") + b"1.2\0"
    odd = bytes.fromhex("0900 1010") + b"UN\0\0\xff\xff\xff\xff"
    odd += bytes.fromhex("feff 00e0 ffffffff") + item + bytes.fromhex("feff 0de0 00000000 feff dde0 00000000")
    data = odd + bytes.fromhex("2000 1300") + b"IS\2\0007 "
    header = scan(data, 0, encoding_of(SYNTAXES[1]), {SOP, NUMBER})
    assert header.integer(NUMBER) == 7
    assert SOP not in header.values


def test_encapsulated_pixel_data_ends_the_header() -> None:
    ds = ct()
    data = encoded(ds)
    head = data[: data.index(bytes.fromhex("e07f1000"))]
    data = head + bytes.fromhex("e07f1000") + b"OB\0\0\xff\xff\xff\xff" + b"anything at all"
    assert scan(data, 0, encoding_of("1.2.840.10008.1.2.4.80"), {SOP}).text(SOP) == ds.SOPInstanceUID


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_truncation_is_noticed(syntax: str) -> None:
    data = encoded(ct(), syntax)
    for length in range(1, len(data) - 2, 7):
        try:
            read_instance_header(data[:length], 0, syntax)
        except (BrokenDataSet, InvalidUid):
            continue
        # Deflated: the header may be there although the stream is cut inside the pixels.
        assert syntax.endswith(".99"), length
        assert len(zlib.decompressobj(-15).decompress(data[:length])) > 500


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(SYNTAXES),
    st.lists(st.tuples(st.integers(0, 899), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_no_mutation_raises_anything_else(syntax: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(encoded(ct(), syntax))
    for position, value in changes:
        data[position % len(data)] = value
    try:
        facts = read_instance_header(bytes(data), 0, syntax)
    except (BrokenDataSet, InvalidUid):
        return
    facts.series()


def test_nesting_has_a_bottom() -> None:
    opening = bytes.fromhex("0800 4011") + b"SQ\0\0\xff\xff\xff\xff" + bytes.fromhex("feff 00e0 ffffffff")
    with pytest.raises(BrokenDataSet, match="nested"):
        scan(opening * 100_000, 0, encoding_of(SYNTAXES[1]), {SOP})


def test_a_deflate_bomb_is_not_inflated_to_its_end() -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    lead = bytes.fromhex("0800 0011") + b"OB\0\0\xff\xff\xff\x7f"
    data = bomb.compress(lead) + b"".join(bomb.compress(bytes(1 << 20)) for _ in range(300)) + bomb.flush()
    with pytest.raises(BrokenDataSet):
        scan(data, 0, encoding_of(SYNTAXES[3]), {SOP})
