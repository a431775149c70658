"""Measurements of one series against the scanner's own earlier ones of the same protocol."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from dicom_qa_node.records import Measurement

__all__ = ["Trend", "plain_unit", "trends_of"]

_ENOUGH = 10
_SHOWN = 60
_WIDTH, _HEIGHT, _EDGE = 160.0, 34.0, 4.0
_UNITS = {"1": "", "[hnsf'U]": "HU", "/mm": "mm⁻¹", "g/ml{SUVbw}": "g/ml SUV", "Bq/ml": "Bq/ml"}

_ANNOTATION = re.compile(r"\{([^}]*)\}")


@dataclass(frozen=True, slots=True)
class Trend:
    """One measurement with its place among the scanner's earlier ones.

    ``percentile`` is the share of earlier values at or below this one in percent, None with fewer than ten of them.
    ``line`` are the points of a strip chart of 160 x 34, oldest first; ``point`` is this series' own; ``band`` is the
    top and the height of the middle 90 %. ``odd`` says that it lies outside these.
    """

    measurement: Measurement
    earlier: int
    median: float | None
    percentile: float | None
    odd: bool
    line: str
    point: tuple[float, float] | None
    band: tuple[float, float] | None


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
    below = sum(value <= item.value for value in ordered)
    return Trend(
        measurement=item,
        earlier=len(earlier),
        median=_at(ordered, 0.5),
        percentile=100.0 * below / len(ordered),
        odd=not low <= item.value <= high,
        line=" ".join(f"{x},{height}" for x, height in places),
        point=places[-1],
        band=(y(high), round(y(low) - y(high), 1)),
    )


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[round(share * (len(ordered) - 1))]
