"""Identifiers of C-FIND, C-MOVE and C-GET requests (PS3.4 C.4) and their character sets."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from enum import Enum
from io import BytesIO
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

from dicom_qa_node.dicom_io.element_scanner import HeaderBudget, HeaderTooCostly, check_items
from dicom_qa_node.dicom_io.file_reader import MessageBudget, ReadingLimit, decode_message
from dicom_qa_node.dicom_io.pydicom_patches import convert_encodings, decode_bytes, encode_string, python_encoding
from dicom_qa_node.index.attributes import LEVELS, NEUTRAL, UNIQUE_KEYS, known_at
from dicom_qa_node.index.matching import Identifier, Key

__all__ = [
    "MismatchedIdentifier",
    "Model",
    "UnknownCharacterSet",
    "UnreadableIdentifier",
    "answer_character_set",
    "decoded",
    "encodings_of",
    "read_identifier",
]

_UTF8 = "ISO_IR 192"
_SEPARATORS = re.compile(r"([=^])")
_DELIMITERS = {ord(character) for character in "^=\\\r\n\t\f"}


class UnknownCharacterSet(Exception):
    """A Specific Character Set that the standard does not define."""


def encodings_of(terms: Sequence[str]) -> list[str]:
    """Return Python's names of the character sets that these defined terms stand for."""
    if any(term.strip() not in python_encoding for term in terms):
        raise UnknownCharacterSet
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_encodings([term.strip() for term in terms] or [""])


def decoded(value: bytes, encodings: Sequence[str]) -> str:
    """Decode a text value; bytes that fit no character set become U+FFFD."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return decode_bytes(value, list(encodings), _DELIMITERS)


def answer_character_set(texts: Iterable[str], asked: Sequence[str]) -> list[str]:
    """Return the character set of an answer: none for ASCII, that of the query if it can write all, else UTF-8."""
    beyond = [text for text in texts if not text.isascii()]
    if not beyond:
        return []
    if asked and all(_survives(text, asked) for text in beyond):
        return list(asked)
    return [_UTF8]


def _survives(text: str, terms: Sequence[str]) -> bool:
    encodings = encodings_of(terms)
    try:
        with warnings.catch_warnings():
            # pydicom warns, and writes question marks, where a text does not fit.
            warnings.simplefilter("error")
            # A component of a name begins in the first character set again (PS3.5 6.1.2.5.3).
            parts = [encode_string(part, encodings) for part in _SEPARATORS.split(text)]
            return decode_bytes(b"".join(parts), encodings, _DELIMITERS) == text
    except (UnicodeError, LookupError, UserWarning):
        return False


_LONGEST_KEY = 1024
_MOST_ITEM_LEVELS = 8
_MOST_VALUES = 64
_MOST_UIDS = 10_000
_MOST_CHARACTER_SETS = 16
# A list of ten thousand UIDs is 650 KB; known keys are less than a hundred.
_BUDGET = MessageBudget(plain_bytes=1 << 20, elements=512)
_ITEMS = HeaderBudget(nested=512, depth=_MOST_ITEM_LEVELS)


class Model(Enum):
    """The information models; the value is the highest level."""

    PATIENT_ROOT = "PATIENT"
    STUDY_ROOT = "STUDY"


class MismatchedIdentifier(Exception):
    """The identifier does not match the SOP class (0xA900); the message names the offending element."""


class UnreadableIdentifier(Exception):
    """The identifier cannot be processed (0xC000)."""


def read_identifier(data: BytesIO | None, syntax: UID, model: Model, *, relational: bool, retrieve: bool) -> Identifier:
    """Return the checked identifier of a request.

    Parameters
    ----------
    relational
        Relational queries or retrieval were negotiated: keys of the levels above may be absent.
    retrieve
        It is that of a C-MOVE or C-GET: the unique key of its own level must be there, with one UID or several.

    Raises
    ------
    MismatchedIdentifier, UnreadableIdentifier
        See their statuses.
    """
    dataset = _decoded(data, syntax)
    terms = tuple(term.strip() for term in _ascii(dataset, "SpecificCharacterSet").split("\\"))
    # An empty first value is the default repertoire, from which code extensions lead away (PS3.3 C.12.1.1.2).
    character_set = terms if any(terms) else ()
    if len(terms) > _MOST_CHARACTER_SETS:
        raise UnreadableIdentifier("SpecificCharacterSet has too many values")
    try:
        encodings = encodings_of(character_set)
    except UnknownCharacterSet as error:
        raise UnreadableIdentifier("SpecificCharacterSet is not known") from error
    level = _ascii(dataset, "QueryRetrieveLevel").strip()
    if level not in LEVELS[LEVELS.index(model.value) :]:
        raise MismatchedIdentifier("QueryRetrieveLevel is not one of the information model")
    keys = {key.keyword: key for key in _keys(dataset, encodings, 0) if key.keyword not in NEUTRAL}
    known = known_at(level)
    identifier = Identifier(
        level=level,
        keys={keyword: key for keyword, key in keys.items() if keyword in known},
        character_set=character_set,
        unsupported=any(keyword not in known for keyword in keys),
    )
    _check_hierarchy(identifier, model, relational=relational, retrieve=retrieve)
    return identifier


def _check_hierarchy(identifier: Identifier, model: Model, *, relational: bool, retrieve: bool) -> None:
    levels = LEVELS[LEVELS.index(model.value) : LEVELS.index(identifier.level)]
    for keyword in (UNIQUE_KEYS[name] for name in levels):
        values = identifier.values(keyword)
        if len(values) > 1 or (not values and not relational) or any(_has_wildcard(value) for value in values):
            raise MismatchedIdentifier(f"{keyword} needs one value at level {identifier.level}")
    if retrieve:
        keyword = UNIQUE_KEYS[identifier.level]
        values = identifier.values(keyword)
        if not values or any(_has_wildcard(value) for value in values):
            raise MismatchedIdentifier(f"{keyword} is missing")
        if identifier.level == "PATIENT" and len(values) > 1:
            raise MismatchedIdentifier("PatientID needs one value")


def _has_wildcard(value: str) -> bool:
    return "*" in value or "?" in value


def _decoded(data: BytesIO | None, syntax: UID) -> Dataset:
    if data is None:
        raise UnreadableIdentifier("the request has no identifier")
    try:
        dataset = decode_message(data.getvalue(), syntax, _BUDGET)
        # Elements are read on access; a broken one must be found here.
        for tag in list(dataset.keys()):
            raw: Any = dataset.get_item(tag)
            if raw.VR == "SQ":
                _items(dataset, tag)
            elif isinstance(raw, RawDataElement) and raw.length != len(raw.value or b""):
                raise EOFError
    except (ReadingLimit, HeaderTooCostly) as error:
        raise UnreadableIdentifier("the identifier is too large") from error
    except Exception as error:
        raise UnreadableIdentifier("the identifier cannot be decoded") from error
    return dataset


def _items(dataset: Dataset, tag: BaseTag) -> Any:
    """Return the items of a sequence, which are counted before they are decoded."""
    raw: Any = dataset.get_item(tag)
    if isinstance(raw, RawDataElement) and raw.value:
        check_items(raw.value, implicit_vr=raw.is_implicit_VR, big_endian=not raw.is_little_endian, budget=_ITEMS)
    return dataset[tag].value


def _ascii(dataset: Dataset, keyword: str) -> str:
    if keyword not in dataset:
        return ""
    item = dataset.get_item(keyword)
    value = item.value
    if isinstance(value, bytes):
        return value.decode("ascii", "replace").rstrip("\0")
    return value if isinstance(value, str) else "\\".join(value or ())


def _keys(dataset: Dataset, encodings: Sequence[str], depth: int) -> list[Key]:
    if depth > _MOST_ITEM_LEVELS:
        raise UnreadableIdentifier("the identifier is nested too deeply")
    found = []
    for tag in sorted(dataset.keys()):
        if tag.element == 0:
            continue
        key = _key(dataset, tag, encodings, depth)
        if key is not None:
            found.append(key)
    return found


def _key(dataset: Dataset, tag: BaseTag, encodings: Sequence[str], depth: int) -> Key | None:
    """Read the value of one element from its bytes: ranges and wildcards are not valid values of most types."""
    raw: object = dataset.get_item(tag)
    keyword = keyword_for_tag(tag) or f"({tag.group:04X},{tag.element:04X})"
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        return Key(int(tag), keyword, "UN")
    if vr == "SQ":
        return _sequence_key(dataset, tag, keyword, encodings, depth)
    if not isinstance(raw, RawDataElement):
        return Key(int(tag), keyword, vr, tuple(str(dataset[tag].value or "").split("\\")))
    value = raw.value or b""
    if len(value) > _LONGEST_KEY and vr != "UI":
        raise UnreadableIdentifier(f"{keyword} is too long")
    text = decoded(value, encodings)
    parts = [text] if vr in ("LT", "ST", "UT") else text.split("\\")
    most = _MOST_UIDS if vr == "UI" else _MOST_VALUES
    if len(parts) > most:
        raise UnreadableIdentifier(f"{keyword} has more than {most} values")
    return Key(int(tag), keyword, vr, tuple(part.strip(" \0") for part in parts))


def _sequence_key(dataset: Dataset, tag: BaseTag, keyword: str, encodings: Sequence[str], depth: int) -> Key:
    try:
        items = _items(dataset, tag)
    except HeaderTooCostly as error:
        raise UnreadableIdentifier(f"{keyword} has too many items") from error
    if not items:
        return Key(int(tag), keyword, "SQ")
    if len(items) > 1:
        raise MismatchedIdentifier(f"{keyword} has more than one item")
    return Key(int(tag), keyword, "SQ", item=tuple(_keys(items[0], encodings, depth + 1)))
