"""What other implementations send when they negotiate, as PS3.8 says and as Orthanc and DCMTK take it."""

from __future__ import annotations

import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ

from dicom_qa_node.dicom_io.associate_pdus import MalformedPdu, tolerated
from tests import raw_association as raw

IDENTITY_9 = raw.item(0x58, struct.pack(">BBH", 9, 1, 4) + b"user" + struct.pack(">H", 2) + b"pw")


def decoded(pdu: bytes) -> A_ASSOCIATE_RQ:
    found = A_ASSOCIATE_RQ() if pdu[0] == 1 else A_ASSOCIATE_AC()
    found.decode(tolerated(pdu)[0])
    return found


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"user": raw.user_information(raw.item(0x5F, b"abcd"))}, "unknown user information item of type 5FH"),
        ({"user": raw.item(0x7F, b"abc") + raw.user_information()}, "unknown item of type 7FH"),
        ({"user": raw.user_information(version=b"V" * 20)}, "implementation version name"),
        ({"user": raw.user_information(version="Käse".encode())}, "implementation version name"),
        ({"user": raw.user_information(version=b"\0\0")}, "type 55H left out"),
        ({"user": raw.user_information(maximum=None)}, "no maximum length"),
        ({"user": b""}, "no user information"),
        ({"user": raw.user_information(IDENTITY_9)}, "type 58H left out"),
        ({"user": raw.user_information(raw.item(0x54, b"\0\3"))}, "type 54H left out"),
        ({"called": b"DICOMQA".ljust(16, b"\0")}, "called AE title"),
        ({"calling": b"SCANNER".ljust(16, b"\0")}, "calling AE title"),
        ({"calling": "MÜLLER".encode("latin-1").ljust(16)}, "calling AE title"),
        ({"version": 3}, None),
        ({"version": 0x8001}, None),
        ({"user": raw.user_information(class_uid=None)}, None),
        ({}, None),
    ],
)
def test_a_request_that_deviates_is_read(change, note):
    pdu = raw.request(**change)
    plain, notes = tolerated(pdu)
    assert [found for found in notes if note and note in found] == ([notes[0]] if note else [])
    found = A_ASSOCIATE_RQ()
    found.decode(plain)
    primitive = found.to_primitive()
    assert found.protocol_version == 1
    assert primitive.application_context_name == raw.DICOM_CONTEXT
    assert [str(cx.abstract_syntax) for cx in primitive.presentation_context_definition_list] == [raw.VERIFICATION]
    assert found.user_information.maximum_length == 16384


def test_a_request_that_does_not_deviate_stays_as_it_is():
    pdu = raw.request(user=raw.user_information(raw.item(0x53, b"\0\1\0\1")))
    assert tolerated(pdu) == (pdu, ())


@pytest.mark.parametrize("version", [0, 2, 0x100])
def test_a_protocol_version_without_bit_0_stays_unknown(version):
    assert decoded(raw.request(version=version)).protocol_version == version


@pytest.mark.parametrize(
    ("field", "text"),
    [(b"SCANNER".ljust(16, b"\0"), "SCANNER"), ("MÜLLER".encode("latin-1").ljust(16), "M?LLER"),
     (b"A\x1b[2J".ljust(16), "A?[2J"), (b" " * 16, "(none)"), (bytes(16), "(none)"), (b"B\0\xff\xff".ljust(16), "B")],
)  # fmt: skip
def test_a_title_becomes_printable(field, text):
    assert decoded(raw.request(calling=field)).calling_ae_title.strip() == text


@pytest.mark.parametrize(
    "user",
    [
        raw.user_information(raw.item(0x5F, b"abcd")),
        raw.user_information(version=b"MY_PACS_VERSION_2024_1"),
        raw.user_information(maximum=None),
    ],
)
@pytest.mark.parametrize("titles", [b" " * 16, bytes(16), b"PACS".ljust(16, b"\0")])
def test_an_acceptance_that_deviates_is_read(user, titles):
    accepted = raw.item(0x21, struct.pack(">BBBB", 1, 0, 0, 0) + raw.item(0x40, b"1.2.840.10008.1.2"))
    primitive = decoded(raw.request(kind=2, contexts=[accepted], user=user, called=titles)).to_primitive()
    assert [cx.result for cx in primitive.presentation_context_definition_results_list] == [0]
    assert primitive.maximum_length_received == 16384


@pytest.mark.parametrize(
    ("codes", "result"),
    [((1, 1, 7), 1), ((2, 3, 2), 2), ((0, 9, 9), 2), ((1, 1, 5), 1), ((3, 1, 1), 2), ((1, 2, 9), 1), ((2, 0, 0), 2)],
)
def test_a_rejection_with_undefined_codes_is_a_rejection(codes, result):
    pdu = struct.pack(">BBLBBBB", 3, 0, 4, 0, *codes)
    plain, notes = tolerated(pdu)
    found = A_ASSOCIATE_RJ()
    found.decode(plain)
    assert found.to_primitive().result == result
    known = codes in ((1, 1, 7), (2, 3, 2))
    assert (plain == pdu) is known
    assert bool(notes) is not known


BOMBS = {
    "contexts": raw.request(contexts=[raw.context(1, raw.VERIFICATION, ["1.2"])] * 25_000),
    "syntaxes": raw.request(contexts=[raw.context(1, raw.VERIFICATION, ["1.2"] * 8_000)] * 15),
    "roles": raw.request(user=raw.user_information(*[raw.item(0x54, b"\0\0031.2\1\1")] * 5_000) * 15),
    "extended": raw.request(user=raw.user_information(*[raw.item(0x56, b"\0\0031.2")] * 6_000) * 15),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_megabyte_of_items_is_refused_at_once(kind):
    began = time.process_time()
    with pytest.raises(MalformedPdu, match="more than") as error:
        tolerated(BOMBS[kind])
    assert time.process_time() - began < 0.2
    assert error.value.titles == ("RAW", "DICOMQA")


@pytest.mark.parametrize("cut", [1, 3, 20])
def test_items_that_do_not_fit_are_named(cut):
    pdu = raw.request()[:-cut]
    with pytest.raises(MalformedPdu, match=r"A-ASSOCIATE-RQ: (an item of type|it ends inside)"):
        tolerated(pdu)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(6, 400), st.integers(0, 255)), min_size=1, max_size=6))
def test_no_mutation_raises_anything_else(changes):
    pdu = bytearray(raw.request(user=raw.user_information(raw.item(0x54, b"\0\0031.2\1\1"), IDENTITY_9)))
    for position, value in changes:
        pdu[position % len(pdu) or 6] = value
    pdu[0] = 1
    try:
        plain, _ = tolerated(bytes(pdu))
    except MalformedPdu:
        return
    again, notes = tolerated(plain)
    assert again == plain
    assert [note for note in notes if "empty" not in note] == []


def abstract_only(number: int) -> bytes:
    return raw.item(0x20, struct.pack(">BBBB", number, 0, 0, 0) + raw.item(0x30, raw.VERIFICATION.encode()))


@pytest.mark.parametrize(
    "context",
    [
        abstract_only(1),
        raw.context(1, raw.VERIFICATION, []),
        raw.context(1, raw.VERIFICATION, [""]),
        raw.context(1, "", ["1.2.840.10008.1.2"]),
        raw.item(0x20, struct.pack(">BBBB", 1, 0, 0, 0) + raw.item(0x40, b"1.2.840.10008.1.2")),
        raw.item(0x20, b"\1\0\0\0"),
    ],
)
def test_a_proposed_context_without_its_syntaxes_is_named_with_the_titles(context):
    with pytest.raises(MalformedPdu, match="a presentation context without a syntax") as found:
        tolerated(raw.request(contexts=[raw.context(3, raw.CT, [raw.EXPLICIT]), context]))
    assert found.value.titles == ("RAW", "DICOMQA")


def test_an_accepted_context_without_a_transfer_syntax_is_a_refusal_and_stays():
    refused = raw.item(0x21, struct.pack(">BBBB", 1, 0, 3, 0))
    answer = raw.request(contexts=[refused], kind=2)
    assert refused in tolerated(answer)[0]
