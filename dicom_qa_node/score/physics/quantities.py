"""What a measurement is: name, unit, formula, direction and source, as data that the documentation repeats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from dicom_qa_node.domain.codes import Code
from dicom_qa_node.domain.results import Measurement

__all__ = ["Direction", "Quantity", "Register"]


class Direction(StrEnum):
    """How to read a value."""

    LOWER = "lower is better"
    HIGHER = "higher is better"
    TARGET = "target"
    CONTEXT = "context"


@dataclass(frozen=True, slots=True)
class Quantity:
    """Definition of one measurement; ``low`` and ``high`` bound its usual range, in ``unit`` (UCUM)."""

    name: str
    meaning: str
    unit: str
    direction: Direction
    formula: str
    reference: str
    code: Code
    low: float | None = None
    high: float | None = None


def _rounded(value: float, unit: str) -> float:
    """Return a value without what no image shows: lengths below 0.1 um, and the rest of a difference of equals."""
    if abs(value) < _NOTHING:
        return 0.0
    return round(value, _LENGTH_DECIMALS) + 0.0 if unit == "mm" else value


_NOTHING = 1e-9
_LENGTH_DECIMALS = 4


class Register:
    """The measurements of one kind of study, in the order in which they are reported."""

    def __init__(self, quantities: Iterable[Quantity]) -> None:
        self._by_name: Mapping[str, Quantity] = {quantity.name: quantity for quantity in quantities}

    def __iter__(self) -> Iterator[Quantity]:
        return iter(self._by_name.values())

    def __getitem__(self, name: str) -> Quantity:
        return self._by_name[name]

    def value(self, name: str, value: float, detail: str = "", *, usual: bool = True) -> Measurement:
        """Return a measured value; without its usual range where that does not hold for the series."""
        found = self._measurement(self._by_name[name], _rounded(float(value), self._by_name[name].unit), "", detail)
        return found if usual else replace(found, low=None, high=None)

    def absent(self, name: str, reason: str) -> Measurement:
        """Return a measurement that does not apply here, and why."""
        return self._measurement(self._by_name[name], None, reason, "")

    def absent_all(self, names: Iterable[str], reason: str) -> tuple[Measurement, ...]:
        """Return several measurements that do not apply for one reason."""
        return tuple(self.absent(name, reason) for name in names)

    @staticmethod
    def _measurement(quantity: Quantity, value: float | None, reason: str, detail: str) -> Measurement:
        return Measurement(
            name=quantity.name,
            meaning=quantity.meaning,
            value=value,
            unit=quantity.unit,
            direction=quantity.direction.value,
            code=quantity.code,
            low=quantity.low,
            high=quantity.high,
            not_applicable=reason,
            detail=detail,
        )
