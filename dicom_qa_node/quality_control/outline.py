"""The outline of what was scanned: a QC phantom is a straight cylinder, a patient is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["CT_THRESHOLD_HU", "Outline", "Planes", "SliceOutline", "body_in", "offsets_mm", "outline_of",
           "pet_threshold"]  # fmt: skip

CT_THRESHOLD_HU = -300.0
"""HU above which a CT voxel belongs to the body: above air and foam, below polyethylene and fat."""

_STEP_MM = 2.0
_LOOK_AT = 40
_SMALLEST_MM = 60.0
_OPENING = 0.3
_CIRCLE_SHARE = 0.97
_FEWEST_SLICES = 10
_SHORTEST_MM = 20.0
_DIAMETER_SD_MM = 0.4
_CLEAR_SHARE = 0.98
_DISC_SHARE = 0.99
_PIXELS_SHARE = 0.3


class Planes(Protocol):
    """Voxels, shape (slices, rows, columns), read slice by slice."""

    def __len__(self) -> int:
        """Return the number of slices."""

    def __getitem__(self, key: Any) -> npt.NDArray[np.float32]:
        """Return a slice."""


@dataclass(frozen=True, slots=True)
class SliceOutline:
    """The body in one slice.

    ``circle_share`` is the part of it inside the circle of equal area at its centroid, 0-1; ``diameter_mm`` that of
    the circle; ``position_mm`` lies along the slice normal, ``centre_mm`` is (row, column) from the first pixel.
    ``step_mm`` is the larger side of the pixels that it was measured in. ``clear`` says that air is seen all around:
    the body ends inside the circle that touches the edges of the image, to which scanners cut what is larger.
    """

    position_mm: float
    circle_share: float
    diameter_mm: float
    centre_mm: tuple[float, float] = (0.0, 0.0)
    step_mm: float = _STEP_MM
    clear: bool = True

    @property
    def is_circle(self) -> bool:
        """Whether an analysis can take the body for a disc."""
        return self.circle_share > _CIRCLE_SHARE

    @property
    def is_disc(self) -> bool:
        """Whether the body is a disc but for its pixels: round chests have up to 98 % inside the circle."""
        return self.circle_share > _DISC_SHARE - _PIXELS_SHARE * self.step_mm / self.diameter_mm


@dataclass(frozen=True, slots=True)
class Outline:
    """The body in the slices that were looked at; empty slices and those too small for a phantom are left out."""

    slices: tuple[SliceOutline, ...]

    @property
    def circle_share(self) -> float:
        """The median of the slices; 0.0 without any."""
        return float(np.median([item.circle_share for item in self.slices])) if self.slices else 0.0

    def cylinder(self) -> tuple[SliceOutline, ...]:
        """Return the longest run of slices that show the same circle; empty unless it has the length of a phantom.

        At least ten slices over 20 mm, each clear of the edge with the body inside the circle but for its jagged edge
        (99 % less what the pixels cost), and a standard deviation of the diameters below 0.4 mm.
        """
        best: tuple[SliceOutline, ...] = ()
        run: list[SliceOutline] = []
        for item in (*self.slices, None):
            if item is not None and item.is_disc and item.clear:
                run.append(item)
                continue
            kept = _same_size(run)
            if len(kept) > len(best):
                best = kept
            run = []
        return best if _long_enough(best) else ()

    @property
    def is_cylinder(self) -> bool:
        """Whether a phantom is shown."""
        return bool(self.cylinder())


def outline_of(
    planes: Planes,
    positions_mm: npt.NDArray[np.float64],
    pixel_mm: tuple[float, float],
    threshold: float = CT_THRESHOLD_HU,
) -> Outline:
    """Measure the body in up to forty slices spread over a series.

    Parameters
    ----------
    planes
        HU or activity, shape (slices, rows, columns).
    positions_mm
        Of the slices along their normal, shape (slices,).
    pixel_mm
        (row, column).
    threshold
        Lowest value of the body.
    """
    count = len(planes)
    chosen = sorted({round(place) for place in np.linspace(0, max(count - 1, 0), min(count, _LOOK_AT)).tolist()})
    found = (body_in(np.asarray(planes[i], np.float32), float(positions_mm[i]), pixel_mm, threshold) for i in chosen)
    return Outline(tuple(item for item in found if item is not None))


def pet_threshold(planes: Planes) -> float:
    """Return half the usual activity of what a PET shows: the edge of a uniform body."""
    step = max(1, len(planes) // _LOOK_AT)
    sample = np.stack([np.asarray(planes[index], np.float32) for index in range(0, len(planes), step)])
    highest = float(np.percentile(sample, 99.5))
    warm = sample[sample > 0.1 * highest]
    return 0.5 * float(np.median(warm)) if highest > 0 and warm.size else np.inf


def body_in(
    image: npt.NDArray[np.float32], position_mm: float, pixel_mm: tuple[float, float], threshold: float
) -> SliceOutline | None:
    """Return the outline of the body in one slice, shape (rows, columns); None without one of 6 cm or more."""
    factors = [max(1, round(_STEP_MM / size)) for size in pixel_mm]
    rows, columns = (side // factor for side, factor in zip(image.shape, factors, strict=True))
    if min(rows, columns) < 3:
        return None
    cut = image[: rows * factors[0], : columns * factors[1]]
    # an average of blocks keeps the edge where it is; it also takes the noise out of the threshold
    small = cut.reshape(rows, factors[0], columns, factors[1]).mean(axis=(1, 3))
    step = (pixel_mm[0] * factors[0], pixel_mm[1] * factors[1])
    body = _body(small > threshold, step)
    if body is None:
        return None
    y, x = (place * size for place, size in zip(np.nonzero(body), step, strict=True))
    area = y.size * step[0] * step[1]
    radius = float(np.sqrt(area / np.pi))
    if 2 * radius < _SMALLEST_MM:
        return None
    inside = np.hypot(y - y.mean(), x - x.mean()) <= radius
    middle = [(side - 1) / 2 * size for side, size in zip(body.shape, step, strict=True)]
    widest = min(side * size for side, size in zip(body.shape, step, strict=True)) / 2
    clear = bool(np.hypot(y - middle[0], x - middle[1]).max() <= _CLEAR_SHARE * widest)
    shift = [(factor - 1) / 2 * size for factor, size in zip(factors, pixel_mm, strict=True)]
    centre = (float(y.mean()) + shift[0], float(x.mean()) + shift[1])
    return SliceOutline(position_mm, float(inside.mean()), 2 * radius, centre, max(step), clear)


def offsets_mm(
    image: npt.NDArray[np.float32], centre_mm: tuple[float, float], pixel_mm: tuple[float, float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return how far each pixel lies from a centre along rows and columns, both of the shape of the image."""
    down, across = (
        np.arange(side) * size - middle for side, size, middle in zip(image.shape, pixel_mm, centre_mm, strict=True)
    )
    y, x = np.meshgrid(down, across, indexing="ij")
    return y, x


def _body(above: npt.NDArray[np.bool_], step_mm: tuple[float, float]) -> npt.NDArray[np.bool_] | None:
    """Return the largest object without what is thin beside it: table top, holder, cables."""
    framed = np.pad(ndimage.binary_fill_holes(above), 1)
    depth = ndimage.distance_transform_edt(framed, sampling=step_mm)
    deepest = float(depth.max())
    if deepest <= 0:
        return None
    reach = _OPENING * deepest
    opened = ndimage.distance_transform_edt(depth <= reach, sampling=step_mm) <= reach
    labels, number = ndimage.label(opened & framed)
    if not number:
        return None
    wanted = labels[np.unravel_index(int(np.argmax(depth)), depth.shape)]
    return np.asarray((labels == wanted)[1:-1, 1:-1] if wanted else opened[1:-1, 1:-1])


def _same_size(run: Sequence[SliceOutline]) -> tuple[SliceOutline, ...]:
    """Return the longest part of a run whose diameters scatter less than the limit."""
    best: tuple[SliceOutline, ...] = ()
    for start in range(len(run)):
        for end in range(len(run), start + len(best), -1):
            part = run[start:end]
            if float(np.std([item.diameter_mm for item in part])) < _DIAMETER_SD_MM:
                best = tuple(part)
                break
    return best


def _long_enough(run: Sequence[SliceOutline]) -> bool:
    return len(run) >= _FEWEST_SLICES and abs(run[-1].position_mm - run[0].position_mm) >= _SHORTEST_MM
