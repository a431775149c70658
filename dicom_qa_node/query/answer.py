"""Makes the Identifier of a C-FIND response (PS3.4 C.4.1.1.3.2) from an entity and what was asked for."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicom_qa_node.query.charset import answer_character_set
from dicom_qa_node.search.answer import answered
from dicom_qa_node.search.find import Entity
from dicom_qa_node.search.keys import Identifier

__all__ = ["build_answer"]

_ENCODED_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})


def build_answer(entity: Entity, identifier: Identifier, retrieve_ae: str) -> Dataset:
    """Return the attributes that were asked for; one without a value has zero length."""
    answer = answered(entity, identifier.keys.values())
    answer.QueryRetrieveLevel = identifier.level
    answer.add(DataElement(Tag("RetrieveAETitle"), "AE", retrieve_ae, validation_mode=IGNORE))
    answer.InstanceAvailability = "ONLINE"
    character_set = answer_character_set(_texts(answer), identifier.character_set)
    if character_set:
        answer.SpecificCharacterSet = character_set
    return answer


def _texts(dataset: Dataset) -> Iterator[str]:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _texts(item)
        elif element.VR in _ENCODED_VRS and element.value:
            yield str(element.value) if isinstance(element.value, str) else "".join(map(str, [element.value]))
