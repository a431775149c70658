"""Comparison of one series with earlier ones of its scanner, and of its scored revisions."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from dicom_qa_node.domain.results import LogEntry, Measurement

__all__ = ["Change", "Pair", "Trend", "compared", "plain_unit", "side_by_side", "trends_of"]

_ENOUGH = 10
_SHOWN = 60
_WIDTH, _HEIGHT, _EDGE = 160.0, 34.0, 4.0
_UNITS = {"1": "", "[hnsf'U]": "HU", "/mm": "mm⁻¹", "g/ml{SUVbw}": "g/ml SUV", "Bq/ml": "Bq/ml"}

_ANNOTATION = re.compile(r"\{([^}]*)\}")


@dataclass(frozen=True, slots=True)
class Trend:
    """One measurement with its place among the scanner's earlier ones.

    ``percentile`` is the share of earlier values below this one in percent, equal ones by half; None with fewer than
    ten of them; ``quartiles`` are those of the earlier values. ``line`` are the points of a strip chart of 160 x 34,
    oldest first; ``point`` is its own; ``band`` is the top and the height of the middle 90 %. ``odd`` says that
    it lies outside these.
    """

    measurement: Measurement
    earlier: int
    median: float | None
    percentile: float | None
    odd: bool
    line: str
    point: tuple[float, float] | None
    band: tuple[float, float] | None
    quartiles: tuple[float, float] | None = None


def plain_unit(code: str) -> str:
    """Return a UCUM unit as people write it; an annotation in braces stands for what is counted."""
    if code in _UNITS:
        return _UNITS[code]
    return _ANNOTATION.sub(r"\1", code) if code.startswith("{") else _ANNOTATION.sub("", code).replace(".", "·")


def trends_of(measurements: Sequence[Measurement], payloads: Sequence[str]) -> list[Trend]:
    """Compare.

    Parameters
    ----------
    payloads
        The JSON of earlier results (`records.result_to_json`), oldest first, without that of the series itself.
    """
    earlier: dict[str, list[float]] = defaultdict(list)
    for payload in payloads:
        for item in json.loads(payload).get("measurements", ()):
            if item.get("value") is not None:
                earlier[item["name"]].append(float(item["value"]))
    return [_trend(item, earlier[item.name]) for item in measurements]


def _trend(item: Measurement, earlier: list[float]) -> Trend:
    if item.value is None or len(earlier) < _ENOUGH:
        return Trend(item, len(earlier), None, None, False, "", None, None)
    ordered = sorted(earlier)
    low, high = _at(ordered, 0.05), _at(ordered, 0.95)
    shown = [*earlier[-_SHOWN:], item.value]
    least, most = min(*shown, low), max(*shown, high)

    def y(value: float) -> float:
        share = (value - least) / (most - least) if most > least else 0.5
        return round(_HEIGHT - _EDGE - share * (_HEIGHT - 2 * _EDGE), 1)

    step = (_WIDTH - 2 * _EDGE) / (len(shown) - 1)
    places = [(round(_EDGE + step * number, 1), y(value)) for number, value in enumerate(shown)]
    # a value that is equal counts by half: among equal values each stands at 50 %
    ties = sum(math.isclose(value, item.value, rel_tol=1e-9) for value in ordered)
    below = sum(value < item.value and not math.isclose(value, item.value, rel_tol=1e-9) for value in ordered)
    return Trend(
        measurement=item,
        earlier=len(earlier),
        median=_at(ordered, 0.5),
        percentile=100.0 * (below + 0.5 * ties) / len(ordered),
        odd=not low <= item.value <= high,
        line=" ".join(f"{x},{height}" for x, height in places),
        point=places[-1],
        band=(y(high), round(y(low) - y(high), 1)),
        quartiles=(_at(ordered, 0.25), _at(ordered, 0.75)),
    )


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[round(share * (len(ordered) - 1))]


@dataclass(frozen=True, slots=True)
class Pair:
    """A measurement of two series; ``change`` is from the first to the second in percent, None where unknown."""

    name: str
    meaning: str
    unit: str
    first: float | None
    second: float | None
    change: float | None


def side_by_side(first: Sequence[Measurement], second: Sequence[Measurement]) -> list[Pair]:
    """Return the measurements that at least one of two series has a value of, in the order of the first."""
    one, two = ({item.name: item for item in items} for items in (first, second))
    pairs = []
    for name in dict.fromkeys([*one, *two]):
        item, values = one.get(name) or two[name], (_value(one.get(name)), _value(two.get(name)))
        if values == (None, None):
            continue
        before, after = values
        change = None
        if before is not None and after is not None and abs(before) > 1e-9:
            change = 100.0 * (after - before) / abs(before)
        pairs.append(Pair(name, item.meaning, item.unit, before, after, change))
    return pairs


def _value(item: Measurement | None) -> float | None:
    return None if item is None else item.value


_NOTED = 0.1


@dataclass(frozen=True, slots=True)
class Change:
    """One version beside the one before it (None for the first): sentences about what differs."""

    entry: LogEntry
    sentences: tuple[str, ...]


def compared(entries: Sequence[LogEntry]) -> list[Change]:
    """Return the versions, the latest first, each with its differences from the one before."""
    ordered = sorted(entries, key=lambda item: item.version)
    before: LogEntry | None = None
    found = []
    for entry in ordered:
        found.append(Change(entry, tuple(_differences(before, entry)) if before else ()))
        before = entry
    return found[::-1]


def _differences(old: LogEntry, new: LogEntry) -> list[str]:
    one, two = old.result, new.result
    changes = []
    if one.score is not None and two.score is not None and abs(two.score - one.score) >= 0.005:
        changes.append(f"score {two.score - one.score:+.2f}")
    elif (one.score is None) != (two.score is None):
        changes.append("has a score now" if one.score is None else "has no score any more")
    if one.grade != two.grade:
        changes.append(f"grade {one.grade.value if one.grade else 'none'} → {two.grade.value if two.grade else 'none'}")
    if one.instances_used != two.instances_used:
        changes.append(f"{two.instances_used - one.instances_used:+d} images")
    if (one.model.name, one.model.sha256) != (two.model.name, two.model.sha256):
        changes.append(f"another model: {two.model.name} {two.model.version}")
    if one.pair_series_uid != two.pair_series_uid:
        changes.append("with its CT now" if two.pair_series_uid else "without its CT now")
    keys, other = {item.key for item in one.findings}, {item.key for item in two.findings}
    changes += [f"new finding: {key.replace('_', ' ')}" for key in sorted(other - keys)]
    changes += [f"no longer: {key.replace('_', ' ')}" for key in sorted(keys - other)]
    return changes + _measured(old, new)


def _measured(old: LogEntry, new: LogEntry) -> list[str]:
    values = {item.name: item.value for item in old.result.measurements}
    changes = []
    for item in new.result.measurements:
        was = values.get(item.name)
        if was is not None and item.value is not None and abs(item.value - was) > _NOTED * max(abs(was), 1e-9):
            changes.append(f"{item.meaning.lower()} {was:.3g} → {item.value:.3g}")
    return changes[:6]
