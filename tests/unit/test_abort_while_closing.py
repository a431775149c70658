"""A request to abort an association that is just closing ends neither its reactor nor the wait for the close."""

from __future__ import annotations

import pytest
from pynetdicom import AE
from pynetdicom.association import MODE_REQUESTOR, Association
from pynetdicom.pdu_primitives import A_ABORT

import dicom_qa_node.dicom_io.pynetdicom_patches  # noqa: F401 - it closes the gap
from dicom_qa_node.receive.fastpath.association import StreamingProvider


@pytest.fixture(params=["pynetdicom", "fast path"])
def provider(request):
    association = Association(AE("DICOMQA"), MODE_REQUESTOR)
    found = association.dul
    if request.param == "fast path":
        found.__class__ = StreamingProvider
    found.state_machine.current_state = "Sta13"
    return found


def test_what_the_user_still_wants_is_dropped(provider):
    provider.to_provider_queue.put(A_ABORT())
    assert not provider._process_recv_primitive()
    assert provider.to_provider_queue.empty()
    assert provider.event_queue.empty()


def test_a_request_that_was_noticed_before_changes_nothing(provider):
    provider.state_machine.do_action("Evt15")
    assert provider.state_machine.current_state == "Sta13"
