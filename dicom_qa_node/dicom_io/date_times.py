"""Parses DICOM dates and times leniently: VR DA, TM and DT, the forms of ACR-NEMA, and values that lost a zero."""

from __future__ import annotations

import datetime as dt
import re

__all__ = ["local_moment", "parse_date", "parse_datetime", "parse_time", "utc_offset"]

_DATE = re.compile(r"(\d{4})([./-]?)(\d{2})\2(\d{2})")
_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?(?:[.,](\d+))?|(\d{4,6})(?:[.,](\d*))?")
_OFFSET = re.compile(r"([+-])(\d{2}):?(\d{2})")
_LARGEST_OFFSET_MIN = 14 * 60


def parse_date(text: str) -> dt.date | None:
    """Return a date: "20240501" (DA), "2024.05.01" (ACR-NEMA) or "2024-05-01"; None for anything else.

    >>> parse_date("2024.05.01")
    datetime.date(2024, 5, 1)
    """
    found = _DATE.fullmatch(text.strip())
    return None if found is None else _date(found[1], found[3], found[4])


def parse_time(text: str) -> dt.time | None:
    """Return a time of day from VR TM or one of its old forms; None for anything else.

    Read are "073100.5", "0731", "07:31:00" (ACR-NEMA), and "73100", whose leading zero a table program took away.

    >>> parse_time("73100"), parse_time("07:31:00")
    (datetime.time(7, 31), datetime.time(7, 31))
    """
    found = _TIME.fullmatch(text.strip())
    if found is None:
        return None
    if found[1]:
        hour, minute, second, fraction = found[1], found[2], found[3] or "0", found[4]
    else:
        digits = found[5].zfill(6) if len(found[5]) == 5 else found[5].ljust(6, "0")
        hour, minute, second, fraction = digits[:2], digits[2:4], digits[4:], found[6]
    microsecond = int((fraction or "0")[:6].ljust(6, "0"))
    try:
        # PS3.5 6.2 allows the leap second 60
        return dt.time(int(hour), int(minute), min(int(second), 59 if int(second) == 60 else 99), microsecond)
    except ValueError:
        return None


def utc_offset(text: str) -> dt.timedelta | None:
    """Return the offset of local time from UTC: "+0200" or "+02:00"; None where it is not an offset.

    >>> utc_offset("-0330") == dt.timedelta(hours=-3.5)
    True
    """
    found = _OFFSET.fullmatch(text.strip())
    if found is None:
        return None
    minutes = 60 * int(found[2]) + int(found[3])
    if int(found[3]) > 59 or minutes > _LARGEST_OFFSET_MIN:
        return None
    return dt.timedelta(minutes=-minutes if found[1] == "-" else minutes)


def parse_datetime(text: str) -> tuple[dt.date, dt.time | None, dt.timedelta | None] | None:
    """Return date, time of day and offset from UTC of a DT; the latter two are None where the value lacks them.

    >>> parse_datetime("20240501080000.25+0200")
    (datetime.date(2024, 5, 1), datetime.time(8, 0, 0, 250000), datetime.timedelta(seconds=7200))
    """
    text = text.strip()
    found = _DATE.match(text)
    day = None if found is None else _date(found[1], found[3], found[4])
    if found is None or day is None:
        return None
    rest = text[found.end() :].lstrip(" T")
    sign = max(rest.find("+"), rest.find("-"))
    offset = utc_offset(rest[sign:]) if sign >= 0 else None
    clock = rest[:sign] if sign >= 0 else rest
    time = parse_time(clock)
    return None if clock.strip() and time is None else (day, time, offset)


def local_moment(text: str, zone: dt.timedelta | None) -> dt.datetime | None:
    """Return a DT as local time without a zone; None where it holds no time of day.

    Parameters
    ----------
    zone
        Offset of the DA and TM of the same header from UTC, Timezone Offset From UTC (0008,0201). A DT with another
        offset is moved to it; without a known ``zone`` its own offset is taken for the local one.
    """
    day, time, offset = parse_datetime(text) or (None, None, None)
    if day is None or time is None:
        return None
    moved = dt.timedelta(0) if offset is None or zone is None else zone - offset
    try:
        return dt.datetime.combine(day, time) + moved
    except OverflowError:
        return None


def _date(year: str, month: str, day: str) -> dt.date | None:
    try:
        return dt.date(int(year), int(month), int(day))
    except ValueError:
        return None
