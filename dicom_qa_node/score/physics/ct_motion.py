"""Motion of the patient between the slices of a CT volume: steps of the body's outline."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_qa_node.records import Measurement
from dicom_qa_node.score.physics.ct_quantities import CT
from dicom_qa_node.score.physics.ct_slices import BODY_HU, BoolArray, grown, is_axial, shrunk
from dicom_qa_node.score.volume import Volume

__all__ = ["contour_jump"]

_NAME = "contour_jump"
_COARSE_MM = 2.6
_NEAR_MM = 13.0
_WIDEST_STEP_MM = 6.0


def contour_jump(volume: Volume) -> Measurement:
    """Measure the largest step of the body's outline between neighbouring slices.

    ``contour_jump`` (mm, lower is better): the area between the outlines of neighbouring slices per length of
    outline, less the mean of the same for the pairs before and after; the largest value of the series. A steady
    change of shape cancels; breathing between rotations and a patient who moves do not. Area more than 13 mm away
    from either outline (an arm that enters the field) does not count.
    """
    if not is_axial(volume):
        return CT.absent(_NAME, "the slices are not axial")
    if len(volume.voxels) < 8:
        return CT.absent(_NAME, "fewer than eight slices")
    if volume.spacing_mm[0] > _WIDEST_STEP_MM:
        return CT.absent(_NAME, f"slices more than {_WIDEST_STEP_MM:.0f} mm apart")
    moves = _moves(volume)
    excess = moves[1:-1] - 0.5 * (moves[:-2] + moves[2:])
    if not np.isfinite(excess).any():
        return CT.absent(_NAME, "no neighbouring slices with a whole outline of the body")
    worst = int(np.nanargmax(excess))
    detail = f"between slices {worst + 2} and {worst + 3} of {len(volume.voxels)}"
    return CT.value(_NAME, max(float(excess[worst]), 0.0), detail)


def _moves(volume: Volume) -> npt.NDArray[np.float64]:
    """Mean distance in mm between the outlines of slice k and k + 1; NaN beside gaps and where there is no body."""
    step = max(1, int(_COARSE_MM / volume.spacing_mm[2]))
    pixel_mm = step * volume.spacing_mm[2]
    moves = np.full(len(volume.voxels) - 1, np.nan)
    before: tuple[BoolArray, float] | None = None
    for index in range(len(volume.voxels)):
        here = _outline(volume.voxels[index, step // 2 :: step, step // 2 :: step], pixel_mm)
        gap = index > 0 and volume.positions_mm[index] - volume.positions_mm[index - 1] > 1.5 * volume.spacing_mm[0]
        if before is not None and here is not None and not gap:
            moved = _thin(before[0] ^ here[0], _NEAR_MM / pixel_mm)
            moves[index - 1] = 2.0 * moved / (before[1] + here[1]) * pixel_mm
        before = here
    return moves


def _thin(moved: BoolArray, width_px: float) -> int:
    """Number of pixels in those parts of a mask that are narrower than ``width_px``."""
    count = int(np.count_nonzero(moved))
    if count <= width_px**2:
        return count
    radius = width_px / 2
    return count - int(np.count_nonzero(grown(shrunk(moved, radius), radius) & moved))


def _outline(coarse: npt.NDArray[np.float32], pixel_mm: float) -> tuple[BoolArray, float] | None:
    """Body of a slice with its holes filled, and the length of its outline in pixels; None if there is little of it."""
    tissue = np.asarray(coarse > BODY_HU)
    if np.count_nonzero(tissue) * pixel_mm**2 < 5000.0:
        return None
    tissue = grown(shrunk(tissue, 1), 1) & tissue
    empty, count = ndimage.label(~tissue)
    size = np.bincount(empty.ravel(), minlength=count + 1)
    size[0] = 0
    body = empty != int(np.argmax(size))
    # pixels on a border count its length along the axes, 4 / pi times the true one on average
    length = float(np.count_nonzero(body & ~shrunk(body, 1)) * np.pi / 4)
    return (body, length) if length else None
