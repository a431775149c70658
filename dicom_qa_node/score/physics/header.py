"""Read attributes that may be absent, empty or broken."""

from __future__ import annotations

import datetime as dt
import math

from pydicom import Dataset
from pydicom.valuerep import DA, DT, TM

__all__ = ["moment", "number", "text"]


def text(header: Dataset, keyword: str) -> str:
    """Text of an element, several values joined by a space; "" where it is absent."""
    value = header.get(keyword)
    if value is None:
        return ""
    if isinstance(value, (str, int, float)):
        return str(value).strip()
    return " ".join(str(part) for part in value).strip() if hasattr(value, "__iter__") else str(value)


def number(header: Dataset, keyword: str) -> float | None:
    """First value of an element as a number; None where it is absent or no finite number."""
    value = header.get(keyword)
    if value is not None and not isinstance(value, (str, int, float)) and hasattr(value, "__getitem__"):
        value = value[0] if len(value) else None
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return result if math.isfinite(result) else None


def moment(header: Dataset, *keywords: str) -> dt.datetime | None:
    """Date and time from one DT element, or from a DA and a TM element; without its time zone; None if absent."""
    values = [text(header, keyword) for keyword in keywords]
    if not all(values):
        return None
    try:
        if len(values) == 1:
            found = DT(values[0])
            return None if found is None else dt.datetime.combine(found.date(), found.time())
        date, time = DA(values[0]), TM(values[1])
    except ValueError:
        return None
    return (
        None
        if date is None or time is None
        else dt.datetime.combine(date, dt.time(time.hour, time.minute, time.second))
    )
