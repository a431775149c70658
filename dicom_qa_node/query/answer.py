"""Makes the Identifier of a C-FIND response (PS3.4 C.4.1.1.3.2) from an entity and what was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.tag import Tag

from dicom_qa_node.query.charset import answer_character_set
from dicom_qa_node.search.find import Entity, matching_items
from dicom_qa_node.search.keys import Identifier, Key

__all__ = ["build_answer"]

_ENCODED_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})


def build_answer(entity: Entity, identifier: Identifier, retrieve_ae: str) -> Dataset:
    """Return the attributes that were asked for; one without a value has zero length."""
    answer = Dataset()
    for keyword, key in identifier.keys.items():
        if key.vr == "SQ":
            items = entity.sequences.get(keyword, ())
            answer.add(DataElement(Tag(key.tag), "SQ", ItemSequence(_items(items, key))))
        else:
            _add(answer, key, entity.values.get(keyword, ()))
    answer.QueryRetrieveLevel = identifier.level
    answer.add(DataElement(Tag("RetrieveAETitle"), "AE", retrieve_ae, validation_mode=IGNORE))
    answer.InstanceAvailability = "ONLINE"
    character_set = answer_character_set(_texts(answer), identifier.character_set)
    if character_set:
        answer.SpecificCharacterSet = character_set
    return answer


def _add(answer: Dataset, key: Key, values: Sequence[str]) -> None:
    text = "\\".join(values)
    try:
        element = DataElement(Tag(key.tag), key.vr, text or None, validation_mode=IGNORE)
    except (ValueError, TypeError, OverflowError):
        # What the images hold breaks its value representation; no number can be made of it.
        element = DataElement(Tag(key.tag), key.vr, None)
    answer.add(element)


def _items(items: Sequence[Dataset], key: Key) -> Iterator[Dataset]:
    """Return the matching items with the attributes that were asked for, whole ones if none was named."""
    wanted = key.item or ()
    for item in matching_items(items, wanted):
        if not wanted:
            yield item
            continue
        part = Dataset()
        for inner in wanted:
            if inner.keyword not in item:
                continue
            if inner.item is not None:
                found = _items(item[inner.keyword].value, inner)
                part.add(DataElement(Tag(inner.tag), "SQ", ItemSequence(found)))
            else:
                part.add(item[inner.keyword])
        yield part


def _texts(dataset: Dataset) -> Iterator[str]:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _texts(item)
        elif element.VR in _ENCODED_VRS and element.value:
            yield str(element.value) if isinstance(element.value, str) else "".join(map(str, [element.value]))
