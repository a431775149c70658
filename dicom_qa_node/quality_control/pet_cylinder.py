"""Activity, noise and uniformity of a uniform PET cylinder (squares of 1 cm as in NEMA NU 2-1994, section 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import Measurement
from dicom_qa_node.quality_control.outline import Planes, SliceOutline, body_in, offsets_mm, pet_threshold
from dicom_qa_node.quality_control.phantom_quantities import measurement

__all__ = ["measure_uniform_pet"]

_INNER = 0.8
_ENDS = 0.1
_SQUARE_MM = 10.0
_FEWEST = 5
_NOT_UNIFORM = 0.5
_UNITS = {"SUVbw": "phantom_suv_mean", "Bq/ml": "phantom_activity", "BQML": "phantom_activity"}


@dataclass(frozen=True, slots=True)
class _Slice:
    mean: float
    cov: float
    highest: float
    lowest: float


def measure_uniform_pet(
    planes: Planes, positions_mm: npt.NDArray[np.float64], pixel_mm: tuple[float, float], unit: str
) -> tuple[Measurement, ...]:
    """Measure a cylinder inside 80 % of its radius and length.

    Parameters
    ----------
    planes
        Activity, shape (slices, rows, columns).
    positions_mm
        Of the slices along their normal, shape (slices,).
    pixel_mm
        (row, column).
    unit
        Of the values; the mean is given for SUVbw and Bq/ml only.

    Raises
    ------
    Permanent
        There is no cylinder in seven slices, or it is empty or not uniform.
    """
    threshold = pet_threshold(planes)
    outlines = [
        body_in(np.asarray(planes[index], np.float32), float(positions_mm[index]), pixel_mm, threshold)
        for index in range(len(planes))
    ]
    round_ones = [index for index, item in enumerate(outlines) if item is not None and item.is_circle]
    sizes = {index: outlines[index].diameter_mm for index in round_ones}  # type: ignore[union-attr]
    usual = float(np.median(list(sizes.values()))) if sizes else 0.0
    round_ones = [index for index in round_ones if abs(sizes[index] - usual) <= max(pixel_mm)]
    left_out = int(np.ceil(_ENDS * len(round_ones)))
    inside = round_ones[left_out : len(round_ones) - left_out]
    if len(inside) < _FEWEST:
        raise Permanent(f"a cylinder is seen in {len(round_ones)} slices; seven are needed")
    found = [_measure(np.asarray(planes[index], np.float32), outlines[index], pixel_mm) for index in inside]
    means = np.array([item.mean for item in found])
    mean = float(means.mean())
    if not mean > 0:
        raise Permanent("the cylinder holds no activity")
    if float(np.median([item.highest for item in found])) > _NOT_UNIFORM:
        raise Permanent("the activity is not uniform: squares of 1 cm rise by more than half above the mean")
    values = [
        measurement("phantom_cov", 100 * float(np.median([item.cov for item in found]))),
        measurement("phantom_nonuniformity_max", 100 * float(np.median([item.highest for item in found]))),
        measurement("phantom_nonuniformity_min", 100 * float(np.median([item.lowest for item in found]))),
        measurement("phantom_axial_deviation", 100 * float(np.abs(means / mean - 1.0).max())),
    ]
    if unit in _UNITS:
        values.insert(0, measurement(_UNITS[unit], mean))
    return tuple(values)


def _measure(image: npt.NDArray[np.float32], outline: SliceOutline | None, pixel_mm: tuple[float, float]) -> _Slice:
    assert outline is not None
    radius = _INNER * outline.diameter_mm / 2
    y, x = offsets_mm(image, outline.centre_mm, pixel_mm)
    inside = image[np.hypot(y, x) <= radius]
    mean = float(inside.mean())
    squares = _squares(image, y, x, radius)
    return _Slice(
        mean, float(inside.std()) / mean, float(squares.max()) / mean - 1.0, 1.0 - float(squares.min()) / mean
    )


def _squares(
    image: npt.NDArray[np.float32], y: npt.NDArray[np.float64], x: npt.NDArray[np.float64], radius: float
) -> npt.NDArray[np.float64]:
    """Return the means of the squares of 1 cm that lie inside a circle."""
    down, across = np.floor(y / _SQUARE_MM + 0.5).astype(int), np.floor(x / _SQUARE_MM + 0.5).astype(int)
    reach = int(radius / _SQUARE_MM) + 1
    number = (down + reach) * (2 * reach + 1) + across + reach
    corner = np.hypot(np.abs(down) * _SQUARE_MM + _SQUARE_MM / 2, np.abs(across) * _SQUARE_MM + _SQUARE_MM / 2)
    chosen = corner <= radius
    sums = np.bincount(number[chosen], image[chosen])
    counts = np.bincount(number[chosen])
    return np.asarray(sums[counts > 0] / counts[counts > 0])
