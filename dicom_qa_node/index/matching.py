"""Query keys and attribute matching (PS3.4 C.2.2.2): single value, UID list, wildcard, range, sequence."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Identifier", "Key", "Matcher", "matcher_for", "moment"]


@dataclass(frozen=True, slots=True)
class Key:
    """One key attribute: decoded values, or the keys of its item for a sequence; none at all for universal matching."""

    tag: int
    keyword: str
    vr: str
    values: tuple[str, ...] = ()
    item: tuple[Key, ...] | None = None


@dataclass(frozen=True, slots=True)
class Identifier:
    """A request's keys; ``unsupported`` tells that some were left out because the node does not know them."""

    level: str
    keys: Mapping[str, Key]
    character_set: tuple[str, ...]
    unsupported: bool

    def values(self, keyword: str) -> tuple[str, ...]:
        """Return the values of a key, none if it is absent or universal."""
        key = self.keys.get(keyword)
        return tuple(value for value in key.values if value and value != "*") if key else ()


Matcher = Callable[[str], bool]
"""Says whether one value of an attribute fulfils a key; a value of zero length fulfils none."""

_WILD = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_NUMBERS = frozenset({"DS", "IS", "FL", "FD", "SL", "SS", "UL", "US"})
_DATE_TIME = r"\d{4,14}(?:\.\d{1,6})?(?:[+-]\d{4})?"
_RANGES = {
    "DA": re.compile(r"^([\d.]*)-([\d.]*)$"),
    "TM": re.compile(r"^([\d:.]*)-([\d:.]*)$"),
    "DT": re.compile(rf"^({_DATE_TIME})?-({_DATE_TIME})?$"),
}


def matcher_for(vr: str, keys: Sequence[str]) -> Matcher | None:
    """Return the matcher of a key with these values, None for universal matching.

    Several values are alternatives: a list of UID (C.2.2.2.2), and in the same sense for other representations.
    """
    wanted = [key for key in (key.strip(" \0") for key in keys) if key]
    if not wanted or "*" in wanted:
        return None
    if vr not in _WILD | _NUMBERS | _RANGES.keys():
        # A list of ten thousand UIDs costs no more than one.
        values = frozenset(wanted)
        return lambda value: value.strip(" \0") in values
    matchers = [_single(vr, key) for key in wanted]
    return lambda value: bool(value.strip(" \0")) and any(matches(value.strip(" \0")) for matches in matchers)


def moment(vr: str, text: str, *, upper: bool = False) -> str:
    """Return a date or time as text that sorts in order of time; missing parts are their first, or ``upper`` last.

    A DT with an offset from UTC is compared by its local time: C.2.2.2.1.3 leaves the conversion to negotiation.
    """
    if vr == "DA":
        return text.replace(".", "")
    if vr == "TM":
        return _filled_time(text.replace(":", ""), upper=upper)
    date_time = re.sub(r"[+-]\d{4}$", "", text)
    whole, _, fraction = date_time.partition(".")
    date, time = whole[:8], whole[8:]
    date += ("1231" if upper else "0101")[len(date) - 4 :] if len(date) in (4, 6) else ""
    return date + _filled_time(f"{time}.{fraction}" if fraction else time, upper=upper)


def _filled_time(text: str, *, upper: bool) -> str:
    whole, _, fraction = text.partition(".")
    missing = "235959"[len(whole) :] if upper else "000000"[len(whole) :]
    precise = len(whole) == 6 and bool(fraction)
    return f"{whole}{missing}.{fraction if precise else ''}".ljust(13, "9" if upper and not precise else "0")


def _single(vr: str, key: str) -> Matcher:
    pattern = _RANGES.get(vr)
    if pattern is not None:
        return _date_or_time(vr, key, pattern)
    if vr == "PN":
        return _name(key)
    if vr in _WILD:
        return _text(key)
    return _number(key)


def _date_or_time(vr: str, key: str, pattern: re.Pattern[str]) -> Matcher:
    found = pattern.match(key)
    if found is None or key == "-":
        low, high = moment(vr, key), moment(vr, key, upper=vr == "DT")
        if vr == "DT":
            return lambda value: low <= moment(vr, value) <= high
        return lambda value: moment(vr, value) == low
    first, last = found.group(1) or "", found.group(2) or ""
    low = moment(vr, first) if first else ""
    high = moment(vr, last, upper=True) if last else "~"
    return lambda value: low <= moment(vr, value) <= high


def _number(key: str) -> Matcher:
    try:
        wanted = float(key)
    except ValueError:
        return lambda value: value == key

    def matches(value: str) -> bool:
        try:
            return float(value) == wanted
        except ValueError:
            return False

    return matches


def _text(key: str) -> Matcher:
    if "*" not in key and "?" not in key:
        return lambda value: value == key
    return lambda value: _wild_match(key, value)


def _wild_match(key: str, value: str) -> bool:
    """Match ``*`` and ``?`` (C.2.2.2.4) in at most len(key) x len(value) steps, which a regular expression is not."""
    position = index = 0
    star, resume = -1, 0
    while index < len(value):
        if position < len(key) and key[position] == "*":
            star, resume = position, index
            position += 1
        elif position < len(key) and key[position] in ("?", value[index]):
            position += 1
            index += 1
        elif star >= 0:
            resume += 1
            position, index = star + 1, resume
        else:
            return False
    return not key[position:].strip("*")


def _name(key: str) -> Matcher:
    """Match a person name without regard to case; a key of one component group matches any of the three groups."""
    groups = [_folded(group) for group in key.split("=")]
    patterns = [_text(group) if group else None for group in groups]

    def matches(value: str) -> bool:
        held = [_folded(group) for group in value.split("=")]
        if len(patterns) == 1 and patterns[0] is not None:
            whole = patterns[0]
            return any(whole(group) for group in held if group)
        held += [""] * (len(patterns) - len(held))
        pairs = zip(patterns, held, strict=False)
        return all(pattern is None or (bool(group) and pattern(group)) for pattern, group in pairs)

    return matches


def _folded(group: str) -> str:
    """Return a component group without case, without padding and without empty components at its end."""
    return unicodedata.normalize("NFC", group).casefold().rstrip(" ^").strip()
