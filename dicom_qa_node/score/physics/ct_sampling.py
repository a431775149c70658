"""Read some slices of a CT volume, evenly spread over the body, and tell patient from air and table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from scipy import ndimage

from dicom_qa_node.dicom_io.headers import items, text, word
from dicom_qa_node.score.convolution_kernels import Sharpness, sharpness_of_header
from dicom_qa_node.score.physics.square_windows import grown, shrunk, sliding_mean
from dicom_qa_node.score.volume import FloatArray, Volume

__all__ = [
    "BODY_HU",
    "BoolArray",
    "CtSample",
    "CtSlice",
    "block_mean",
    "body_mask",
    "ct_slice",
    "is_axial",
    "limbs_beside",
    "sample_ct",
    "slice_of",
]

BoolArray = npt.NDArray[np.bool_]

BODY_HU = -500.0
"""Between air and fat; the threshold of Sanders 2016 for the skin."""

_PADDING_HU = -1500.0
_OUTSIDE_AIR_HU = -920.0
_MASK_PIXEL_MM = 1.6
_TABLE_SHELL_MM = 7.0
_AIR_MARGIN_MM = 9.0
_DEEP_MM = 12.0
_SKIN_REACH_MM = 11.0
_LIMB_MM2 = 600.0
_LIMB_FILL = 0.55
_LIMB_LONGEST = 3.5
_LIMB_HU = (-150.0, 500.0)
_TABLE_LONGEST = 6.0
"""No cross-section of a body is this much wider than thick; shoulders are up to 4 times."""


@dataclass(frozen=True, slots=True)
class CtSlice:
    """One slice with its masks, all of shape (rows, columns).

    ``hu`` is float32; ``body`` is filled (lungs and bowel gas belong to it) and free of the table; ``patient`` is the
    body with arms and legs that lie apart from it, however thin; ``deep`` is the body 12 mm below the skin; ``skin`` is
    all within 11 mm of the skin; ``air`` keeps a margin to everything; ``field`` is where the scanner reconstructed.
    ``truncated`` is the share (0-1) of the body's outline that lies on the edge of the field.
    """

    index: int
    hu: FloatArray
    body: BoolArray
    patient: BoolArray
    deep: BoolArray
    skin: BoolArray
    air: BoolArray
    field: BoolArray
    truncated: float
    pixel_mm: tuple[float, float]

    @property
    def mean_pixel_mm(self) -> float:
        """Side of a square pixel of the same area."""
        return float(np.sqrt(self.pixel_mm[0] * self.pixel_mm[1]))


@dataclass(frozen=True, slots=True)
class CtSample:
    """The slices that are measured, and what the estimators must know of the series.

    ``body_share`` (slices,) is the share of every slice that is denser than `BODY_HU`; ``metal_share`` the share of the
    tissue voxels of the whole volume above the metal threshold.
    """

    volume: Volume
    slices: tuple[CtSlice, ...]
    body_share: npt.NDArray[np.float64]
    metal_share: float
    sharpness: Sharpness
    contrast: bool
    axial: bool

    @property
    def sharp_kernel(self) -> bool:
        """Whether limits for soft-tissue kernels do not hold."""
        return self.sharpness is Sharpness.SHARP


_METAL_HU = 2500.0
_NO_AGENT = frozenset({"", "NONE", "NO", "N", "0", "NON CONTRAST", "WITHOUT"})


def sample_ct(
    volume: Volume,
    count: int = 16,
    apply: Callable[..., Iterable[CtSlice]] = map,
    sharpness: Sharpness | None = None,
) -> CtSample:
    """Prepare up to ``count`` slices, spread over those that show the body; the volume is read by slices.

    ``apply`` maps a function over the slices, as `map` does or a pool of threads; ``sharpness`` is that of the
    kernel, by the header where it is not given.
    """
    share, metal = _survey(volume)
    header = volume.header
    return CtSample(
        volume=volume,
        slices=tuple(apply(partial(ct_slice, volume), _spread(share, count))),
        body_share=share,
        metal_share=metal,
        sharpness=sharpness or sharpness_of_header(header),
        contrast=_contrast_given(header),
        axial=is_axial(volume),
    )


def _contrast_given(header: Dataset) -> bool:
    """Whether the header names a contrast agent, as text or by code (PS3.3 C.7.6.4, C.7.6.4b), that was given."""
    if text(header, "ContrastBolusAgent").upper() not in _NO_AGENT:
        return True
    usage = [
        word(item, "ContrastBolusAgentAdministered").upper() for item in items(header, "ContrastBolusUsageSequence")
    ]
    return bool(items(header, "ContrastBolusAgentSequence")) and (not usage or any(value != "NO" for value in usage))


def is_axial(volume: Volume) -> bool:
    """True where the slices are cut across the patient, with up to about 30 degrees of gantry tilt."""
    return abs(float(volume.direction[2, 0])) > 0.86


def ct_slice(volume: Volume, index: int) -> CtSlice:
    """Read one slice as float32 and find patient, air and field in it."""
    hu = np.asarray(volume.voxels[index], np.float32)
    valid = None if volume.valid is None else volume.valid[index]
    return slice_of(hu, (volume.spacing_mm[1], volume.spacing_mm[2]), valid, index)


def slice_of(hu: FloatArray, pixel_mm: tuple[float, float], valid: BoolArray | None = None, index: int = 0) -> CtSlice:
    """Find patient, air and field in one axial slice.

    Parameters
    ----------
    hu
        CT numbers, float32, shape (rows, columns).
    pixel_mm
        Distance of neighbouring rows and columns.
    valid
        False where a pixel is padding; None: all valid.
    index
        Number of the slice in its volume.
    """
    field = _field(hu, valid)
    factor = max(1, int(_MASK_PIXEL_MM / min(pixel_mm)))
    step_mm = factor * min(pixel_mm)
    small = block_mean(np.where(field, hu, np.float32(-1000.0)), (factor, factor))
    body = body_mask(small, step_mm)
    near_something = grown(sliding_mean(small, 3) > -880.0, _AIR_MARGIN_MM / step_mm)
    skin = grown(body, _SKIN_REACH_MM / step_mm) & ~shrunk(body, _SKIN_REACH_MM / step_mm)
    patient = body | limbs_beside(small, body, step_mm)
    masks = (body, patient, shrunk(body, _DEEP_MM / step_mm), skin, ~near_something)
    whole, all_of_it, deep, rim, air = (_enlarged(mask, factor, hu.shape) & field for mask in masks)
    truncated = _truncated(body, field[::factor, ::factor][: body.shape[0], : body.shape[1]])
    return CtSlice(index, hu, whole, all_of_it, deep, rim, air, field, truncated, pixel_mm)


def _survey(volume: Volume) -> tuple[npt.NDArray[np.float64], float]:
    """Share of tissue per slice, and of metal in all tissue, on every second pixel.

    Metal is what lies in the body or on its skin: arcs at the edge of the field and parts of the table are not.
    """
    tissue, metal = np.zeros(len(volume.voxels)), 0.0
    pixel_mm = 2.0 * min(volume.spacing_mm[1:])
    for index, coarse in enumerate(_coarse(volume)):
        tissue[index] = np.count_nonzero(coarse > BODY_HU) / coarse.size
        dense = np.asarray(coarse > _METAL_HU)
        if dense.any():
            on_body = grown(body_mask(np.asarray(coarse, np.float32), pixel_mm), _SKIN_REACH_MM / 2 / pixel_mm)
            metal += int(np.count_nonzero(dense & on_body)) / coarse.size
    return tissue, float(metal / max(tissue.sum(), 1e-9))


def _coarse(volume: Volume) -> Iterator[npt.NDArray[np.float32]]:
    for index in range(len(volume.voxels)):
        yield volume.voxels[index, ::2, ::2]


def _spread(share: npt.NDArray[np.float64], count: int) -> list[int]:
    """Slices with a body, without the outermost ones of a long series, evenly spread."""
    filled = np.flatnonzero(share > 0.02)
    if filled.size >= 20:
        filled = filled[filled.size // 20 : -(filled.size // 20)]
    if filled.size <= count:
        return [int(index) for index in filled]
    return [int(filled[i]) for i in np.linspace(0, filled.size - 1, count).round().astype(int)]


def _field(hu: FloatArray, valid: BoolArray | None) -> BoolArray:
    """Where the scanner reconstructed: without padding, and without the constant corners around a circle."""
    inside = hu > _PADDING_HU
    if valid is not None:
        inside &= valid
    if not inside.all():
        return inside
    corners = {float(hu[row, column]) for row in (0, -1) for column in (0, -1)}
    if len(corners) > 1:
        return inside
    circle = _circle(*hu.shape)
    outside = hu[~circle]
    return circle if np.mean(outside == hu[0, 0]) > 0.95 and hu[0, 0] == hu.min() else inside


@lru_cache(maxsize=4)
def _circle(rows: int, columns: int) -> BoolArray:
    y, x = np.ogrid[:rows, :columns]
    radius = min(rows, columns) / 2
    return np.asarray((y - (rows - 1) / 2) ** 2 + (x - (columns - 1) / 2) ** 2 <= radius**2)


def _truncated(body: BoolArray, field: BoolArray) -> float:
    outline = body & ~shrunk(np.pad(body, 1), 1)[1:-1, 1:-1]
    if not outline.any():
        return 0.0
    inner = shrunk(field, 2)
    inner[:2], inner[-2:], inner[:, :2], inner[:, -2:] = False, False, False, False
    return float(np.count_nonzero(outline & ~inner) / np.count_nonzero(outline))


def body_mask(small: FloatArray, pixel_mm: float) -> BoolArray:
    """Patient without table, holes filled; ``small`` in HU."""
    tissue = small > BODY_HU
    radius = max(round(_TABLE_SHELL_MM / 2 / pixel_mm), 1)
    tissue = grown(shrunk(tissue, radius), radius) & tissue
    empty, count = ndimage.label(~tissue)
    if not tissue.any() or count == 0:
        return tissue
    filled = ~np.isin(empty, _outer_air(small, empty, count))
    parts, number = ndimage.label(filled)
    size = np.bincount(parts.ravel(), minlength=number + 1)
    size[0] = 0
    flat = [label for label, box in enumerate(ndimage.find_objects(parts, number), start=1) if _is_flat(box)]
    if len(flat) < number:
        # a table top of full thickness
        size[flat] = 0
    return np.asarray(np.isin(parts, np.flatnonzero(size >= max(0.1 * size.max(), 1))) & filled)


def _is_flat(box: tuple[slice, ...]) -> bool:
    sides = sorted(side.stop - side.start for side in box)
    return bool(sides[1] > _TABLE_LONGEST * sides[0])


def limbs_beside(small: FloatArray, body: BoolArray, pixel_mm: float) -> BoolArray:
    """Return arms and legs that lie apart from the body, without table, cushions and holders.

    A limb is compact, as dense as tissue throughout, and thicker than a table's shell; what the table is made of is
    thin, hollow, lighter than fat, or much wider than thick.
    """
    tissue = (small > BODY_HU) & ~body
    radius = max(round(_TABLE_SHELL_MM / 2 / pixel_mm), 1)
    parts, number = ndimage.label(grown(shrunk(tissue, radius), radius) & tissue)
    found = np.zeros(body.shape, bool)
    for label, box in enumerate(ndimage.find_objects(parts, number), start=1):
        part = ndimage.binary_fill_holes(parts[box] == label)
        area = float(np.count_nonzero(part)) * pixel_mm**2
        sides = sorted(side * pixel_mm for side in part.shape)
        compact = area > _LIMB_FILL * sides[0] * sides[1] and sides[1] < _LIMB_LONGEST * sides[0]
        if area >= _LIMB_MM2 and compact and _LIMB_HU[0] < float(np.mean(small[box][part])) < _LIMB_HU[1]:
            found[box] |= part
    return found


def _outer_air(small: FloatArray, empty: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.intp]:
    """Empty regions that reach the border of the image and are air there: a lung cut by the field is not."""
    border = np.ones(small.shape, bool)
    border[2:-2, 2:-2] = False
    labels = empty[border]
    touched = np.bincount(labels, minlength=count + 1)
    airy = np.bincount(labels, weights=sliding_mean(small, 3)[border] < _OUTSIDE_AIR_HU, minlength=count + 1)
    outer = (touched > 0) & (airy > 0.3 * touched)
    outer[0] = False
    return np.flatnonzero(outer)


def block_mean(image: npt.NDArray[np.float32], factors: tuple[int, int]) -> FloatArray:
    """Average blocks of ``factors`` (rows, columns) pixels; rows and columns that fill no block are dropped."""
    if factors == (1, 1):
        return np.asarray(image, np.float32)
    down, across = factors
    rows, columns = image.shape[0] // down * down, image.shape[1] // across * across
    # A sum of strided pictures: ten times as fast as the mean over two axes of blocks.
    total = np.zeros((rows // down, columns // across), np.float32)
    for row, column in np.ndindex(down, across):
        total += image[row:rows:down, column:columns:across]
    return np.asarray(total / np.float32(down * across), np.float32)


def _enlarged(mask: BoolArray, factor: int, shape: tuple[int, ...]) -> BoolArray:
    large = mask.repeat(factor, axis=0).repeat(factor, axis=1)
    missing = [(0, full - have) for full, have in zip(shape, large.shape, strict=True)]
    return np.pad(large, missing, mode="edge")
