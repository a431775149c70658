from __future__ import annotations

import contextlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID, CTImageStorage
from pynetdicom.dimse_messages import C_ECHO_RQ, C_STORE_RQ
from pynetdicom.dimse_primitives import C_ECHO, C_STORE
from pynetdicom.dsutils import decode as decode_by_library
from pynetdicom.dsutils import encode as encode_by_library

from dicom_qa_node.receive.fastpath import command_sets
from dicom_qa_node.receive.fastpath.command_sets import MalformedCommand, StoreRequest
from dicom_qa_node.receive.store_status import SUCCESS, Answer, Status


def store_rq(message_id: int = 7) -> bytes:
    primitive = C_STORE()
    primitive.MessageID = message_id
    primitive.AffectedSOPClassUID = CTImageStorage
    primitive.AffectedSOPInstanceUID = UID("1.2.3")
    primitive.Priority = 2
    primitive.DataSet = BytesIO(b"12")
    primitive.MoveOriginatorApplicationEntityTitle = "MOVER"
    primitive.MoveOriginatorMessageID = 5
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    data = encode_by_library(message.command_set, True, True)
    assert data is not None
    return data


def test_reads_what_pynetdicom_writes() -> None:
    elements = command_sets.decode(store_rq(65535))
    assert command_sets.command_field(elements) == command_sets.C_STORE_RQ
    assert command_sets.store_request(elements) == StoreRequest(65535, str(CTImageStorage), "1.2.3", True)


def test_tells_another_command_apart() -> None:
    primitive = C_ECHO()
    primitive.MessageID = 1
    message = C_ECHO_RQ()
    message.primitive_to_message(primitive)
    elements = command_sets.decode(encode_by_library(message.command_set, True, True) or b"")
    assert command_sets.command_field(elements) != command_sets.C_STORE_RQ
    assert not command_sets.has_data_set(elements)


@pytest.mark.parametrize(
    "answer", [SUCCESS, Answer(Status.OUT_OF_RESOURCES, "no space"), Answer(Status.CANNOT_UNDERSTAND, "odd")]
)
@pytest.mark.parametrize("uid", ["1.2.3", "1.2.34"])
def test_pynetdicom_reads_what_it_writes(answer: Answer, uid: str) -> None:
    data = command_sets.encode_store_response(StoreRequest(9, str(CTImageStorage), uid, True), answer)
    ds = decode_by_library(BytesIO(data), True, True)
    assert ds.CommandGroupLength == len(data) - 12
    assert (ds.CommandField, ds.MessageIDBeingRespondedTo, ds.CommandDataSetType) == (0x8001, 9, 0x0101)
    assert (ds.AffectedSOPClassUID, ds.AffectedSOPInstanceUID) == (CTImageStorage, uid)
    assert ds.Status == answer.status
    assert ds.get("ErrorComment", "") == answer.comment


def test_what_is_no_uid_is_not_sent_back() -> None:
    data = command_sets.encode_store_response(StoreRequest(9, "é" * 500, "../" * 100, True), SUCCESS)
    assert set(command_sets.decode(data)) == {0x0000, 0x0100, 0x0120, 0x0800, 0x0900}


def test_a_nul_inside_what_a_peer_calls_an_object_goes_no_further() -> None:
    elements = command_sets.decode(store_rq()) | {0x1000: b"1.2\x003\0"}
    assert command_sets.store_request(elements).sop_instance_uid == "1.2\ufffd3"


@given(st.binary(max_size=200))
def test_garbage_is_malformed_or_read(data: bytes) -> None:
    try:
        elements = command_sets.decode(data)
        command_sets.command_field(elements)
        command_sets.store_request(elements)
    except MalformedCommand:
        pass


@given(st.integers(0, 100), st.integers(0, 255))
def test_a_damaged_request_is_malformed_or_read(position: int, value: int) -> None:
    data = bytearray(store_rq())
    data[position % len(data)] = value
    with contextlib.suppress(MalformedCommand):
        command_sets.store_request(command_sets.decode(bytes(data)))
