from __future__ import annotations

import pytest

from dicom_qa_node.dicom_io.element_scanner import BrokenDataSet
from dicom_qa_node.domain.uids import InvalidUid
from dicom_qa_node.receive.store_status import Status, WrongSopClass, WrongSopInstance, answer_for
from dicom_qa_node.spool.disk_space import SpoolFull


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SpoolFull("x"), 0xA700),
        (BrokenDataSet("x"), 0xC000),
        (InvalidUid("x"), 0x0117),
        (WrongSopInstance("x"), 0x0117),
        (WrongSopClass("x"), 0xA900),
        (OSError(5, "Input/output error"), 0x0110),
        (KeyError("x"), 0x0110),
    ],
)
def test_every_failure_has_a_named_status(error: Exception, status: int) -> None:
    assert answer_for(error).status == status


def test_a_comment_fits_its_element_and_quotes_only_our_own_words() -> None:
    assert len(answer_for(BrokenDataSet("x" * 100)).comment) == 64
    assert "Doe" not in answer_for(ValueError("Doe^John")).comment


def test_names_are_unique() -> None:
    assert len(Status.__members__) == len({int(status) for status in Status})
