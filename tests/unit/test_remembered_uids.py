"""What is remembered of UIDs changes nothing of what pynetdicom makes of them."""

from __future__ import annotations

import pytest
from pydicom import config as pydicom_config
from pydicom.uid import UID
from pynetdicom import pdu_items, pdu_primitives, presentation, utils
from pynetdicom.presentation import PresentationContext

from dicom_qa_node.dicom_io import pynetdicom_patches

EXPLICIT = "1.2.840.10008.1.2.1"


@pytest.mark.parametrize("module", [pdu_items, pdu_primitives, presentation])
@pytest.mark.parametrize("value", [EXPLICIT, EXPLICIT.encode(), UID(EXPLICIT), "1.2.3", "", None])
def test_a_uid_is_what_it_was(module, value):
    for _ in range(2):
        found = module.set_uid(value, "name")
        assert found == utils.set_uid(value, "name")
        assert found is None or isinstance(found, UID)


@pytest.mark.parametrize("value", ["1." * 40 + "1", b"1." * 40 + b"1"])
def test_what_is_refused_is_refused_again(value, monkeypatch):
    monkeypatch.setattr(pydicom_config.settings, "reading_validation_mode", pydicom_config.IGNORE)
    for _ in range(2):
        with pytest.raises(ValueError, match="64 characters"):
            pdu_items.set_uid(value, "name")


def test_an_empty_uid_is_refused_where_it_must_not_be():
    assert pdu_items.set_uid("", "name") == ""
    for _ in range(2):
        with pytest.raises(ValueError, match="empty"):
            pdu_items.set_uid("", "name", allow_empty=False)


@pytest.mark.parametrize("kind", [str, UID, str.encode])
def test_a_context_has_each_transfer_syntax_once_and_its_own_list(kind):
    first, second = PresentationContext(), PresentationContext()
    for context in (first, second):
        for syntax in (EXPLICIT, "1.2.840.10008.1.2", EXPLICIT):
            context.add_transfer_syntax(kind(syntax))
        assert context.transfer_syntax == [EXPLICIT, "1.2.840.10008.1.2"]
        assert all(isinstance(uid, UID) for uid in context.transfer_syntax)
    first.transfer_syntax = ["1.2.840.10008.1.2.2"]
    assert second.transfer_syntax == [EXPLICIT, "1.2.840.10008.1.2"]


@pytest.mark.parametrize("syntax", [None, 1])
def test_what_is_no_uid_is_left_out_of_a_context(syntax):
    context = PresentationContext()
    context.add_transfer_syntax(syntax)
    assert context.transfer_syntax == []


def test_no_more_than_a_bounded_number_is_remembered():
    for number in range(3000):
        pdu_items.set_uid(f"1.2.3.{number}", "name")
        PresentationContext().add_transfer_syntax(f"1.2.3.{number}")
    assert pynetdicom_patches._remembered_uid.cache_info().currsize <= 2048
    assert pynetdicom_patches._added_by.cache_info().currsize <= 2048
