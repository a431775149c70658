"""Finds the entities that match an identifier, page by page, and builds the attributes of their answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.tag import Tag

from dicom_qa_node.index.attributes import COUNTS, GROUPED, LEVELS, UNIQUE_KEYS, column_of, stored_at
from dicom_qa_node.index.catalogue import Catalogue, HeldInstance, HeldSeries, Narrowing
from dicom_qa_node.index.matching import Identifier, Key, Matcher, matcher_for, moment

__all__ = ["Entity", "SearchTooLong", "answered", "find_entities", "find_instances"]

_NARROWED = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "AccessionNumber")
_LOOK_EVERY = 64
_MOMENTS = (
    ("StudyDate", "StudyTime"),
    ("ContentDate", "ContentTime"),
    ("InstanceCreationDate", "InstanceCreationTime"),
)


class SearchTooLong(Exception):
    """A search has used up its time; what was found before it was answered."""


@dataclass(frozen=True, slots=True)
class Entity:
    """One patient, study, series or instance: its attributes as text, and the sequences of an instance."""

    values: Mapping[str, tuple[str, ...]]
    sequences: Mapping[str, Sequence[Dataset]] = field(default_factory=dict)


class Conditions:
    """The keys of an identifier as matchers; ``combined`` matches a range of date and time as one (C.2.2.2.5.4)."""

    def __init__(self, identifier: Identifier, *, combined: bool = False) -> None:
        keys = dict(identifier.keys)
        self._moments = _moment_ranges(keys) if combined else []
        for date, time, *_ in self._moments:
            del keys[date], keys[time]
        found = {name: matcher_for(key.vr, key.values) for name, key in keys.items() if key.item is None}
        self._matchers: dict[str, Matcher] = {name: matches for name, matches in found.items() if matches is not None}
        self._items = {name: key.item for name, key in keys.items() if key.item}

    def fulfilled(self, entity: Entity) -> bool:
        """Say whether an entity fulfils every key."""
        for keyword, matches in self._matchers.items():
            if not any(matches(value) for value in entity.values.get(keyword, ())):
                return False
        for date, time, low, high in self._moments:
            if not low <= _moment_of(entity, date, time) <= high:
                return False
        return all(matching_items(entity.sequences.get(name, ()), item) for name, item in self._items.items())


def find_entities(
    catalogue: Catalogue,
    identifier: Identifier,
    *,
    combined: bool = False,
    within_s: float = float("inf"),
    look: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = monotonic,
) -> Iterator[Entity]:
    """Yield the entities of the identifier's level that fulfil it, in order of their unique key.

    Parameters
    ----------
    within_s
        How long the search itself may take; the time in which the caller sends an answer does not count.
    look
        Called for every few entities that were compared, so that a caller whose peer has gone can raise an end to it.

    Raises
    ------
    SearchTooLong
        ``within_s`` is over.
    """
    conditions = Conditions(identifier, combined=combined)
    entities = _images(catalogue, identifier) if identifier.level == "IMAGE" else _grouped(catalogue, identifier)
    left_s, resumed = within_s, clock()
    for number, entity in enumerate(entities):
        if number % _LOOK_EVERY == 0:
            look()
        fulfilled = conditions.fulfilled(entity)
        now = clock()
        left_s, resumed = left_s - (now - resumed), now
        if left_s < 0:
            raise SearchTooLong(f"the search has taken {within_s:g} s; name more keys")
        if fulfilled:
            yield entity
            resumed = clock()


def find_instances(catalogue: Catalogue, identifier: Identifier) -> Iterator[HeldInstance]:
    """Return the instances below the unique keys of a retrieve request, without the headers that queries need."""
    names = [UNIQUE_KEYS[level] for level in LEVELS[: LEVELS.index(identifier.level) + 1]]
    equal = {column_of(name): values for name in names if (values := identifier.values(name))}
    for instance in _pages(catalogue, Narrowing(equal)):
        yield replace(instance, header="") if instance.header else instance


def matching_items(items: Sequence[Dataset], keys: Sequence[Key]) -> list[Dataset]:
    """Return the items of a sequence that fulfil the keys of a request's item (C.2.2.2.6)."""
    return [item for item in items if all(_item_fulfils(item, key) for key in keys)]


def _item_fulfils(item: Dataset, key: Key) -> bool:
    if key.item is not None:
        return not key.item or bool(matching_items(_sequence(item, key.keyword), key.item))
    matches = matcher_for(key.vr, key.values)
    return matches is None or any(matches(value) for value in _texts(item, key.keyword))


def _sequence(item: Dataset, keyword: str) -> Sequence[Dataset]:
    return item[keyword].value if keyword in item else ()


def _texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    value = dataset.get(keyword)
    if value is None or value == "":
        return ()
    return tuple(str(part) for part in value) if isinstance(value, list | tuple) else tuple(str(value).split("\\"))


def _grouped(catalogue: Catalogue, identifier: Identifier) -> Iterator[Entity]:
    level, narrowing, after = GROUPED[identifier.level], _narrowing(identifier), ""
    while page := catalogue.page(level, narrowing, after):
        for _, held in page:
            yield Entity(_values_of(identifier.level, held))
        after = page[-1][0]


def _images(catalogue: Catalogue, identifier: Identifier) -> Iterator[Entity]:
    series: dict[str, HeldSeries] = {}
    for instance in _pages(catalogue, _narrowing(identifier)):
        uid = instance.series_instance_uid
        if uid not in series:
            series = catalogue.series([uid])
        upper = _values_of("SERIES", [series[uid]]) if uid in series else {}
        yield _image(instance, upper)


def _pages(catalogue: Catalogue, narrowing: Narrowing) -> Iterator[HeldInstance]:
    after = ""
    while page := catalogue.instances(narrowing, after):
        yield from page
        after = page[-1].sop_instance_uid


def _image(instance: HeldInstance, upper: Mapping[str, tuple[str, ...]]) -> Entity:
    values = dict(upper)
    sequences: dict[str, Sequence[Dataset]] = {}
    header = Dataset.from_json(json.loads(instance.header)) if instance.header else Dataset()
    for element in header:
        if element.VR == "SQ":
            sequences[element.keyword] = element.value
        else:
            values[element.keyword] = _texts(header, element.keyword)
    values["SOPInstanceUID"] = (instance.sop_instance_uid,)
    values["SOPClassUID"] = (instance.sop_class_uid,)
    values["AvailableTransferSyntaxUID"] = (instance.transfer_syntax_uid,)
    if instance.instance_number is not None:
        values["InstanceNumber"] = (str(instance.instance_number),)
    if not instance.header:
        values["NumberOfFrames"] = (str(instance.number_of_frames),)
    return Entity(values, sequences)


def _values_of(level: str, held: Sequence[HeldSeries]) -> dict[str, tuple[str, ...]]:
    """Return the attributes of a level: those of its first series, and what is counted over all."""
    first = held[0].facts
    values = {name: _split(first.get(name, "") or first.get(column_of(name), "")) for name in stored_at(level)}
    values["ModalitiesInStudy"] = tuple(sorted({_modality(series) for series in held}))
    values["SOPClassesInStudy"] = tuple(sorted({uid for series in held for uid in series.sop_classes}))
    instances = str(sum(series.instances for series in held))
    studies = {series.study_instance_uid for series in held}
    for keyword in (name for name, of_level in COUNTS.items() if of_level == level):
        if keyword.endswith("Instances"):
            values[keyword] = (instances,)
        else:
            values[keyword] = (str(len(studies if keyword.endswith("Studies") else held)),)
    return values


def _modality(series: HeldSeries) -> str:
    return series.facts.get("Modality", "") or series.facts.get("modality", "")


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split("\\")) if text else ()


def _narrowing(identifier: Identifier) -> Narrowing:
    equal = {}
    for keyword in _NARROWED:
        values = identifier.values(keyword)
        if values and not any("*" in value or "?" in value for value in values):
            equal[column_of(keyword)] = values
    dates = identifier.values("StudyDate")
    if len(dates) != 1:
        return Narrowing(equal)
    low, separator, high = dates[0].replace(".", "").partition("-")
    return Narrowing(equal, (low, (high or "~") if separator else low))


def _moment_ranges(keys: Mapping[str, Key]) -> list[tuple[str, str, str, str]]:
    found = []
    for date, time in _MOMENTS:
        days, times = _range(keys.get(date)), _range(keys.get(time))
        if days and times:
            low = moment("DA", days[0]) + moment("TM", times[0]) if days[0] else ""
            high = moment("DA", days[1]) + moment("TM", times[1] or "", upper=True) if days[1] else "~"
            found.append((date, time, low, high))
    return found


def _range(key: Key | None) -> tuple[str, str] | None:
    if key is None or len(key.values) != 1 or "-" not in key.values[0]:
        return None
    low, _, high = key.values[0].partition("-")
    return low, high


def _moment_of(entity: Entity, date: str, time: str) -> str:
    days, times = entity.values.get(date, ()), entity.values.get(time, ())
    return moment("DA", days[0]) + moment("TM", times[0] if times else "") if days else "\x7f\x7f"


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
