"""QIDO-RS (PS3.18 10.6): reads the parameters of a search, and writes its matches as DICOM JSON, one after another."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from starlette.exceptions import HTTPException

from dicom_qa_node.domain.uids import is_uid
from dicom_qa_node.index.attributes import COUNTS, LEVELS, UNIQUE_KEYS, known_at
from dicom_qa_node.index.catalogue import Catalogue
from dicom_qa_node.index.find import Entity, answered, find_entities
from dicom_qa_node.index.matching import Identifier, Key

__all__ = ["Search", "dataset_json", "json_array", "matches", "read_search"]

_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_MOST_VALUES = 500
_LONGEST_VALUE = 1024
_MOST = 2**31 - 1
_MOST_PARAMETERS = 200
_MOST_ALTERNATIVES = 64
_ALWAYS = {
    "STUDY": (
        "StudyDate", "StudyTime", "AccessionNumber", "ModalitiesInStudy", "ReferringPhysicianName", "PatientName",
        "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
    ),
    "SERIES": (
        "Modality", "SeriesDescription", "SeriesInstanceUID", "SeriesNumber", "NumberOfSeriesRelatedInstances",
    ),
    "IMAGE": ("SOPClassUID", "SOPInstanceUID", "InstanceNumber", "NumberOfFrames", "AvailableTransferSyntaxUID"),
}  # fmt: skip
"""What each level always answers with (PS3.18 tables 10.6.3-3 to 10.6.3-5), as far as the node has it."""


@dataclass(frozen=True, slots=True)
class Search:
    """A search that was read; ``answer`` are the keys that its matches are answered with."""

    identifier: Identifier
    answer: tuple[Key, ...]
    limit: int | None
    offset: int
    fuzzy: bool = field(default=False)


def read_search(level: str, place: Mapping[str, str], parameters: Iterable[tuple[str, str]]) -> Search:
    """Return the search that an address asks for.

    Parameters
    ----------
    level
        STUDY, SERIES or IMAGE.
    place
        The UIDs in the path, by keyword.

    Raises
    ------
    HTTPException
        400, with a sentence about the parameter.
    """
    keys: dict[str, Key] = {}
    included: list[str] = []
    options: dict[str, str] = {}
    for number, (name, value) in enumerate(parameters):
        if number >= _MOST_PARAMETERS:
            raise HTTPException(400, f"A search has at most {_MOST_PARAMETERS} parameters.")
        if name == "includefield":
            included += value.split(",")
        elif name in ("limit", "offset", "fuzzymatching"):
            options[name] = value
        else:
            _take(keys, name, value, level)
    for keyword, uid in place.items():
        if keyword in keys:
            raise HTTPException(400, f"{keyword} stands in the path already.")
        keys[keyword] = _key(keyword, uid)
    limit = _count(options, "limit")
    return Search(
        identifier=Identifier(level, keys, (), unsupported=False),
        answer=tuple(_asked_for(level, place, keys, included)),
        limit=limit,
        offset=_count(options, "offset") or 0,
        fuzzy=_truth(options, "fuzzymatching"),
    )


def matches(catalogue: Catalogue, search: Search, base: str, within_s: float) -> Iterator[Dataset]:
    """Return the matches as data sets, read from the catalogue page by page; ``base`` is the service's address.

    Raises
    ------
    SearchTooLong
        The search has taken ``within_s``, which leaves out the time to send what it found.
    """
    found = find_entities(catalogue, search.identifier, within_s=within_s)
    stop = None if search.limit is None else search.offset + search.limit
    for entity in islice(found, search.offset, stop):
        answer = answered(entity, search.answer)
        answer.RetrieveURL = _address(base, search.identifier.level, entity)
        answer.InstanceAvailability = "ONLINE"
        yield answer


def json_array(datasets: Iterable[Dataset]) -> Iterator[str]:
    """Return a JSON array piece by piece."""
    lead = "["
    for dataset in datasets:
        yield lead + json.dumps(dataset_json(dataset), ensure_ascii=False, allow_nan=False)
        lead = ","
    yield "]" if lead == "," else "[]"


def dataset_json(dataset: Dataset) -> dict[str, Any]:
    """Return a data set in the DICOM JSON model (PS3.18 F.2); large binary values and unreadable ones are left out."""
    found: dict[str, Any] = {}
    for tag in sorted(dataset.keys()):
        name = f"{tag.group:04X}{tag.element:04X}"
        try:
            element = dataset[tag]
            value: Any = element.to_json_dict(lambda _: "", 1024)
            if element.VR == "SQ":
                value = {"vr": "SQ", "Value": [dataset_json(item) for item in element.value]}
            json.dumps(value, allow_nan=False)
        except (ValueError, TypeError, AttributeError, LookupError, OverflowError, NotImplementedError):
            # Images hold what breaks its value representation; one value must not cost the others.
            continue
        if "BulkDataURI" not in value:
            found[name] = {"vr": "SQ"} if value.get("Value") == [] else value
    return found


def _take(keys: dict[str, Key], name: str, value: str, level: str) -> None:
    path = [_keyword(part) for part in name.split(".")]
    top = path[0]
    if top not in known_at(level):
        raise HTTPException(400, f"{top} is not a supported query key for {_word(level)}.")
    if len(path) > 2 or (len(path) == 2 and dictionary_VR(top) != "SQ"):
        raise HTTPException(400, f"{name} is not an attribute of an item of a sequence.")
    key = _key(path[-1], value)
    if len(path) == 1:
        if top in keys:
            raise HTTPException(400, f"{top} is given twice.")
        keys[top] = key
        return
    before = keys[top].item or () if top in keys else ()
    tag = tag_for_keyword(top)
    assert tag is not None
    keys[top] = Key(tag, top, "SQ", item=(*before, key))


def _keyword(name: str) -> str:
    keyword = keyword_for_tag(int(name, 16)) if _TAG.fullmatch(name) else name
    if not keyword or tag_for_keyword(keyword) is None:
        raise HTTPException(400, f"{name[:64]!r} is neither a DICOM keyword nor a tag of eight hexadecimal digits.")
    return keyword


def _key(keyword: str, value: str) -> Key:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    vr = dictionary_VR(tag)
    if len(value) > _LONGEST_VALUE and vr != "UI":
        raise HTTPException(400, f"The value of {keyword} is too long.")
    if vr == "SQ":
        if value:
            raise HTTPException(400, f"{keyword} is a sequence: name an attribute of its item, {keyword}.CodeValue.")
        return Key(tag, keyword, vr)
    values = tuple(part.strip() for part in (re.split(r"[,\\]", value) if vr == "UI" else value.split("\\")))
    if vr != "UI" and len(values) > _MOST_ALTERNATIVES:
        raise HTTPException(400, f"{keyword} has more than {_MOST_ALTERNATIVES} values.")
    if vr == "UI":
        bad = [uid for uid in values if uid and uid != "*" and not is_uid(uid)]
        if bad or len(values) > _MOST_VALUES:
            raise HTTPException(400, f"{keyword} is not a UID or a list of up to {_MOST_VALUES} of them.")
    return Key(tag, keyword, vr, values)


def _asked_for(level: str, place: Mapping[str, str], keys: Mapping[str, Key], included: list[str]) -> Iterator[Key]:
    known = known_at(level)
    # Levels that the path does not fix are answered for, too (PS3.18 10.6.3.3).
    first = 0 if level == "STUDY" or not place else LEVELS.index("SERIES" if len(place) == 1 else "IMAGE")
    names = [name for above in LEVELS[first : LEVELS.index(level) + 1] for name in _ALWAYS.get(above, ())]
    names += place
    for wanted in included:
        if wanted.strip() == "all":
            names += sorted(known)
        elif wanted.strip():
            names.append(_keyword(wanted.strip()))
    names += keys
    for name in dict.fromkeys(names):
        if name not in known or COUNTS.get(name, level) != level:
            continue
        key = keys.get(name)
        # A key with an item would narrow the items that are answered with; all of them are wanted.
        yield _key(name, "") if key is None or key.item else key


def _address(base: str, level: str, entity: Entity) -> str:
    parts = {"STUDY": "studies", "SERIES": "series", "IMAGE": "instances"}
    address = base
    for above in LEVELS[1 : LEVELS.index(level) + 1]:
        address += f"/{parts[above]}/{entity.values[UNIQUE_KEYS[above]][0]}"
    return address


def _count(options: Mapping[str, str], name: str) -> int | None:
    text = options.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > _MOST:
        raise HTTPException(400, f"{name} must be a whole number, 0 or more.")
    return int(text)


def _truth(options: Mapping[str, str], name: str) -> bool:
    text = options.get(name, "false").lower()
    if text not in ("true", "false"):
        raise HTTPException(400, f"{name} must be true or false.")
    return text == "true"


def _word(level: str) -> str:
    return {"STUDY": "studies", "SERIES": "series", "IMAGE": "instances"}[level]
