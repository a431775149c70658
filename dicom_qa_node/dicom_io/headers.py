"""Reads single attributes of headers that may hold anything: a value that breaks its VR counts as absent."""

from __future__ import annotations

import datetime as dt
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from pydicom import Dataset, config
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.errors import BytesLengthException
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag, Tag

from dicom_qa_node.dicom_io.date_times import local_moment, parse_date, parse_time, utc_offset
from dicom_qa_node.dicom_io.element_scanner import HeaderTooCostly, check_items
from dicom_qa_node.domain.uids import is_uid

__all__ = [
    "BROKEN_VALUE",
    "date",
    "integer",
    "items",
    "moment",
    "number",
    "numbers",
    "one_item",
    "raw",
    "text",
    "time_of_day",
    "tolerant",
    "uid",
    "word",
    "words",
    "zone",
]

_LONG_BYTES = 64 * 1024

# What pydicom raises when it converts the bytes of an element that breaks its VR.
BROKEN_VALUE = (
    ValueError, TypeError, AttributeError, LookupError, OverflowError, NotImplementedError, BytesLengthException,
)  # fmt: skip


@contextmanager
def tolerant() -> Iterator[None]:
    """Read without pydicom's checks of values: what cannot be used is found where it is used."""
    settings = config.settings
    before = settings.reading_validation_mode
    settings.reading_validation_mode = config.IGNORE
    try:
        with warnings.catch_warnings():
            # pydicom's warnings quote values, and a value may be a name.
            warnings.simplefilter("ignore")
            yield
    finally:
        settings.reading_validation_mode = before


def raw(ds: Dataset, keyword: Any) -> Any:
    """Return a value as pydicom gives it, None where it is absent, empty or cannot be converted."""
    try:
        tag = _tag(keyword)
        if tag not in ds:
            return None
        _check_cost(ds, tag)
        found = ds[tag]
        return None if found.is_empty else found.value
    except (*BROKEN_VALUE, HeaderTooCostly):
        return None


@lru_cache(maxsize=1024)
def _tag(keyword: Any) -> BaseTag:
    return Tag(keyword)


def _check_cost(ds: Dataset, tag: BaseTag) -> None:
    """Count the elements of a long sequence before pydicom makes an object of each."""
    item: object = ds.get_item(tag)
    if isinstance(item, RawDataElement) and len(item.value or b"") > _LONG_BYTES and _is_sequence(item):
        check_items(item.value or b"", implicit_vr=item.is_implicit_VR, big_endian=not item.is_little_endian)


def _is_sequence(item: RawDataElement) -> bool:
    return (item.VR or (dictionary_VR(item.tag) if dictionary_has_tag(item.tag) else "")) in ("SQ", "UN")


def words(ds: Dataset, keyword: Any) -> tuple[str, ...]:
    """Return a text attribute as its values, stripped; () where absent."""
    value = raw(ds, keyword)
    if value is None:
        return ()
    many = value if isinstance(value, (list, tuple)) or hasattr(value, "append") else [value]
    return tuple(_text(item) for item in many)


def word(ds: Dataset, keyword: Any) -> str:
    """Return the first value of a text attribute, "" where absent."""
    return next(iter(words(ds, keyword)), "")


def text(ds: Dataset, keyword: Any) -> str:
    """Return every value of a text attribute, joined by a space; "" where absent."""
    return " ".join(words(ds, keyword)).strip()


def uid(ds: Dataset, keyword: Any) -> str:
    """Return a UID, "" where it is absent or breaks PS3.5 9.1."""
    found = word(ds, keyword)
    return found if is_uid(found) else ""


def numbers(ds: Dataset, keyword: Any, count: int) -> tuple[float, ...] | None:
    """Return exactly ``count`` finite numbers, None if the attribute holds anything else."""
    value = raw(ds, keyword)
    if value is None:
        return None
    many = [value] if isinstance(value, (int, float, str, bytes)) else value
    try:
        found = tuple(float(item) for item in many)
    except BROKEN_VALUE:
        return None
    return found if len(found) == count and all(math.isfinite(item) for item in found) else None


def number(ds: Dataset, keyword: Any) -> float | None:
    """Return one finite number, None if the attribute holds anything else."""
    found = numbers(ds, keyword, 1)
    return None if found is None else found[0]


def integer(ds: Dataset, keyword: Any) -> int | None:
    """Return one whole number, None if the attribute holds anything else."""
    found = number(ds, keyword)
    return int(found) if found is not None and found == int(found) else None


def items(ds: Dataset, keyword: Any) -> list[Dataset]:
    """Return the items of a sequence, [] if it is absent or no sequence."""
    value = raw(ds, keyword)
    return [item for item in value if isinstance(item, Dataset)] if isinstance(value, DicomSequence) else []


def one_item(ds: Dataset, keyword: Any) -> Dataset:
    """Return the first item of a sequence, an empty data set if there is none."""
    return next(iter(items(ds, keyword)), Dataset())


def zone(ds: Dataset) -> dt.timedelta | None:
    """Return Timezone Offset From UTC (0008,0201), the zone of every DA and TM of a header; None where unknown."""
    return utc_offset(word(ds, "TimezoneOffsetFromUTC"))


def date(ds: Dataset, keyword: Any) -> dt.date | None:
    """Return a DA attribute, None if it is absent or no date."""
    return parse_date(word(ds, keyword))


def moment(ds: Dataset, *keywords: Any, local: dt.timedelta | None = None) -> dt.datetime | None:
    """Return a point in local time from one DT attribute, or from a DA and a TM attribute.

    Parameters
    ----------
    local
        Offset of local time from UTC, for an item of a sequence; by default that of ``ds`` (`zone`).
    """
    if len(keywords) == 1:
        return local_moment(word(ds, keywords[0]), zone(ds) if local is None else local)
    day, time = date(ds, keywords[0]), time_of_day(ds, keywords[1])
    return None if day is None or time is None else dt.datetime.combine(day, time)


def time_of_day(ds: Dataset, keyword: Any) -> dt.time | None:
    """Return a TM attribute, None if it is absent or no time."""
    return parse_time(word(ds, keyword))


def _text(value: object) -> str:
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
    return text.strip(" \0")
