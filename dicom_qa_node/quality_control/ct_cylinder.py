"""CT number, noise and uniformity of a cylinder of water, by discs in the middle and near the edge.

The discs follow IEC 61223-3-5: CT number and noise in the middle of the phantom, uniformity by four discs whose edge
is 10 mm inside the wall. pylinac has no class for a plain cylinder.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import Measurement
from dicom_qa_node.quality_control.outline import CT_THRESHOLD_HU, Planes, SliceOutline, body_in, offsets_mm
from dicom_qa_node.quality_control.phantom_quantities import measurement

__all__ = ["measure_water"]

_CENTRE_SHARE = 0.4
_EDGE_SHARE = 0.1
_FROM_WALL_MM = 10.0
_WALL_MM = 7.0
_FEWEST = 3
_WATER_HU = 100.0
_SAME_SIZE_MM = 2.0
_INNER = 0.8
_BLOCK_MM = 6.0
_ONE_MATERIAL_HU = 80.0


def measure_water(
    planes: Planes, positions_mm: npt.NDArray[np.float64], pixel_mm: tuple[float, float]
) -> tuple[Measurement, ...]:
    """Measure a cylinder; each value is the median of the slices in its middle half.

    Parameters
    ----------
    planes
        HU, shape (slices, rows, columns).
    positions_mm
        Of the slices along their normal, shape (slices,).
    pixel_mm
        (row, column).

    Raises
    ------
    Permanent
        There is no cylinder of water in three slices; the text says what is there.
    """
    found = list(_slices(planes, positions_mm, pixel_mm))
    if len(found) < _FEWEST:
        raise Permanent(f"a cylinder of one material is seen in {len(found)} slices; three are needed")
    centre, noise, edge = (float(np.median(column)) for column in zip(*found, strict=True))
    if abs(centre) > _WATER_HU:
        raise Permanent(f"the middle of the cylinder has {centre:.0f} HU: it is not filled with water")
    return (
        measurement("phantom_hu_centre", centre),
        measurement("phantom_noise", noise),
        measurement("phantom_edge_centre", edge),
    )


def _slices(
    planes: Planes, positions_mm: npt.NDArray[np.float64], pixel_mm: tuple[float, float]
) -> Iterator[tuple[float, float, float]]:
    """Yield CT number, noise and edge less centre of each slice of the middle half of the cylinder."""
    round_ones = []
    for index in range(len(planes)):
        image = np.asarray(planes[index], np.float32)
        found = body_in(image, float(positions_mm[index]), pixel_mm, CT_THRESHOLD_HU)
        if found is not None and found.is_circle and _one_material(image, found, pixel_mm):
            round_ones.append((index, found))
    usual = float(np.median([found.diameter_mm for _, found in round_ones])) if round_ones else 0.0
    same = [item for item in round_ones if abs(item[1].diameter_mm - usual) <= _SAME_SIZE_MM]
    quarter = len(same) // 4
    for index, found in same[quarter : len(same) - quarter]:
        yield _discs(np.asarray(planes[index], np.float32), found, pixel_mm)


def _one_material(image: npt.NDArray[np.float32], body: SliceOutline, pixel_mm: tuple[float, float]) -> bool:
    """Whether the inner part of a slice holds one material: nothing of bone, fat, air or inserts."""
    y, x = offsets_mm(image, body.centre_mm, pixel_mm)
    smooth = ndimage.uniform_filter(image, [max(1, round(_BLOCK_MM / size)) for size in pixel_mm])
    inside = smooth[np.hypot(y, x) <= _INNER * body.diameter_mm / 2]
    return bool(inside.size) and float(np.ptp(np.percentile(inside, (0.5, 99.5)))) < _ONE_MATERIAL_HU


def _discs(
    image: npt.NDArray[np.float32], body: SliceOutline, pixel_mm: tuple[float, float]
) -> tuple[float, float, float]:
    radius = body.diameter_mm / 2
    y, x = offsets_mm(image, body.centre_mm, pixel_mm)
    from_middle = np.hypot(y, x)
    small = _EDGE_SHARE * radius
    middle = image[from_middle <= small]
    noise = float(image[from_middle <= _CENTRE_SHARE * radius].std())
    out = radius - _WALL_MM - _FROM_WALL_MM - small
    edges = [image[np.hypot(y - out * down, x - out * side) <= small].mean()
             for down, side in ((-1, 0), (0, 1), (1, 0), (0, -1))]  # fmt: skip
    centre = float(middle.mean())
    return centre, noise, max((float(edge) - centre for edge in edges), key=abs)
