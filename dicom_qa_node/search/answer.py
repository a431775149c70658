"""Makes the attributes of an answer from an entity and the keys that were asked for (PS3.4 C.4.1.1.3.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.tag import Tag

from dicom_qa_node.search.find import Entity, matching_items
from dicom_qa_node.search.keys import Key

__all__ = ["answered"]


def answered(entity: Entity, keys: Iterable[Key]) -> Dataset:
    """Return the attributes that were asked for; one without a value has zero length."""
    answer = Dataset()
    for key in keys:
        if key.vr == "SQ":
            items = entity.sequences.get(key.keyword, ())
            answer.add(DataElement(Tag(key.tag), "SQ", ItemSequence(_items(items, key))))
        else:
            _add(answer, key, entity.values.get(key.keyword, ()))
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
