"""Reference levels of noise and dose, frozen by people: what is usual for a protocol, a scanner and a size."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["DEFAULT_TOLERANCE_PERCENT", "LEVEL_QUANTITIES", "LevelForm", "ReferenceLevel", "ReferenceLevels"]

LEVEL_QUANTITIES = ("global_noise_level", "ctdi_vol", "ssde")
"""What a level can be frozen for."""

DEFAULT_TOLERANCE_PERCENT: Mapping[str, float] = {"global_noise_level": 20.0, "ctdi_vol": 30.0, "ssde": 30.0}
"""Noise: the band of Duke's noise reference levels (median over patients of one size, 20 %). Dose: a choice of ours."""


class LevelForm(StrEnum):
    """How a level depends on patient size."""

    TYPICAL_VALUE = "typical value"
    SIZE_CURVE = "size curve"


@dataclass(frozen=True, slots=True)
class ReferenceLevel:
    """One frozen level.

    Attributes
    ----------
    typical
        Median of the series it was frozen from, in the unit of the quantity (HU, mGy).
    slope_per_mm, centre_mm
        A size curve is ``exp(intercept + slope_per_mm (diameter - centre_mm))``; a typical value has no slope.
    low_mm, high_mm
        Water-equivalent diameters between which it holds: of the fit, and for a typical value the quartiles.
    limit
        Stated limit: a value up to it is never outside.
    tolerance_percent
        How far above the level a value may lie.
    count
        Series it was frozen from.
    """

    quantity: str
    form: LevelForm
    typical: float
    intercept: float
    slope_per_mm: float
    centre_mm: float
    low_mm: float
    high_mm: float
    limit: float
    count: int
    revision: int = 1
    frozen_at: dt.datetime | None = None
    tolerance_percent: float = 20.0

    def at(self, diameter_mm: float | None) -> float | None:
        """Return the level at a water-equivalent diameter in mm; None where it does not hold."""
        if diameter_mm is None or not self.low_mm <= diameter_mm <= self.high_mm:
            return None
        return math.exp(self.intercept + self.slope_per_mm * (diameter_mm - self.centre_mm))

    def outside(self, value: float, diameter_mm: float | None) -> bool | None:
        """Return whether a value lies above the level's tolerance and above the stated limit.

        None where the level does not hold for this size.
        """
        level = self.at(diameter_mm)
        if level is None:
            return None
        return value > level * (1.0 + self.tolerance_percent / 100.0) and value > self.limit

    def words(self, diameter_mm: float, unit: str) -> str:
        """Return the level in words: "reference level 12.1 HU at 302 mm (size curve, revision 2 of 2026-11-28)"."""
        level = self.at(diameter_mm)
        shown = "" if level is None else f" {level:.3g} {unit} at {diameter_mm:.0f} mm"
        day = "" if self.frozen_at is None else f" of {self.frozen_at:%Y-%m-%d}"
        return f"reference level{shown} ({self.form.value}, revision {self.revision}{day})"


@dataclass(frozen=True, slots=True)
class ReferenceLevels:
    """The levels of one scanner, by the label of the stratum and the quantity, as they stood when scoring began.

    ``protocol`` is the name of the series to be scored, as the charts take it from its headers.
    """

    protocol: str = ""
    by_stratum: Mapping[str, Mapping[str, ReferenceLevel]] = field(default_factory=dict)

    def of(self, stratum: str) -> Mapping[str, ReferenceLevel]:
        """Return the levels of a stratum by quantity, empty where none was frozen."""
        return self.by_stratum.get(stratum, {})
