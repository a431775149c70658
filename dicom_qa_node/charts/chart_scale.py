"""On which scale a quantity is charted: its logarithm or itself, with the patient's size taken out or not.

Noise, dose and what follows from them scatter by percent and change with patient size: on a raw chart larger patients
look like a fault of the scanner, and a fault hides among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicom_qa_node.charts.control_charts import Limits, ewma, limits_of
from dicom_qa_node.charts.size_curve import SizeCurve, size_curve_of

__all__ = ["DOSE", "SIZE", "ChartScale", "adjusted_by_size", "least_shift", "log_scaled", "scale_of"]

Values = NDArray[np.float64]

SIZE = "water_equivalent_diameter"
"""The measurement that stands for patient size."""

DOSE = ("ctdi_vol", "ssde", "dlp")
"""Quantities of the dose: where one of them leaves its baseline, the protocol was changed."""

_BY_SIZE = frozenset(
    (
        *DOSE, "global_noise_level", "snr", "cnr_soft_tissue_fat", "noise_in_air", "skin_edge_f50",
        "photon_starvation_index", "nps_peak_frequency",
    )
)  # fmt: skip
_LINEAR_BY_SIZE = frozenset(("score", "ct_part_score"))
_LOG = _BY_SIZE | {"liver_cov", "liver_snr", "liver_suv_mean", "noise_correlation_width"}

# As a share of the centre. Dose: displayed CTDIvol is accurate to 20 % only (IEC 60601-2-44), half of it is kept. Noise
# and what follows from it: 5 % is what 10 % of dose change (noise ~ dose^-1/2, Brooks and Di Chiro 1976).
_LEAST = dict.fromkeys(DOSE, 0.10)
_LEAST_ELSE = 0.05
# A tenth of the width of a grade, on the scale from 0 to 4.
_LEAST_SCORE = 0.1


def log_scaled(quantity: str) -> bool:
    """Whether a quantity scatters by percent: it is charted by its logarithm."""
    return quantity in _LOG


def adjusted_by_size(quantity: str) -> bool:
    """Whether a quantity changes with patient size by physics."""
    return quantity in _BY_SIZE or quantity in _LINEAR_BY_SIZE


def least_shift(quantity: str, chosen: Mapping[str, float], centre: float) -> float:
    """Return the least relevant shift of a quantity, in its unit: smaller drifts are real and do not matter.

    Parameters
    ----------
    chosen
        Shares by name of a quantity (``charts.least_shift_percent`` / 100), "*" for all others.
    """
    share = chosen.get(quantity)
    if share is None and quantity.endswith("score") and "*" not in chosen:
        return _LEAST_SCORE
    if share is None:
        share = chosen.get("*", _LEAST.get(quantity, _LEAST_ELSE))
    return abs(centre) * share


@dataclass(frozen=True, slots=True)
class ChartScale:
    """How values become what a chart judges; ``curve`` is None where size is not taken out."""

    log: bool = False
    curve: SizeCurve | None = None

    def adjusted(self, values: Sequence[float] | Values, sizes_mm: Sequence[float] | Values) -> Values:
        """Return values at the median size, in their unit; NaN for what cannot be judged.

        Parameters
        ----------
        sizes_mm
            Water-equivalent diameters, NaN where a series has none.
        """
        found = np.asarray(values, dtype=np.float64)
        if self.curve is not None:
            return self.curve.adjusted(sizes_mm, found)
        return np.where(found > 0, found, np.nan) if self.log else found

    def leverage(self, sizes_mm: Sequence[float] | Values, weight: float) -> Values:
        """Return the variance that the slope of the size curve adds to the EWMA, over that of the values."""
        sizes = np.asarray(sizes_mm, dtype=np.float64)
        if self.curve is None:
            return np.zeros(sizes.shape)
        off = ewma(np.nan_to_num(sizes - self.curve.centre_mm), 0.0, weight)
        variance: Values = self.curve.slope_variance() * off**2
        return variance

    def limits(self, values: Sequence[float] | Values, sizes_mm: Sequence[float] | Values) -> Limits | None:
        """Return the limits that a baseline gives; None for fewer than two values that can be judged."""
        adjusted = self.adjusted(values, sizes_mm)
        return limits_of(adjusted[np.isfinite(adjusted)], log=self.log)


def scale_of(quantity: str, values: Sequence[float] | Values, sizes_mm: Sequence[float] | Values) -> ChartScale:
    """Return the scale of a quantity: with a size curve where 50 series of those given have a size.

    A quantity of which one value is not positive has no logarithm and stays as it is.
    """
    found = np.asarray(values, dtype=np.float64)
    log = log_scaled(quantity) and bool(found.size) and bool(np.all(found > 0))
    if not adjusted_by_size(quantity):
        return ChartScale(log)
    return ChartScale(log, size_curve_of(sizes_mm, found, log=log))
