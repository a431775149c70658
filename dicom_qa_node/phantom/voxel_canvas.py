"""Tissues, and a canvas of voxels on which shapes of tissue are painted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from dicom_qa_node.phantom.projector import FloatArray


class Channel(StrEnum):
    """What a rendered slice shows."""

    NATIVE_CT = "native-ct"
    VENOUS_CT = "venous-ct"
    FDG = "fdg"


@dataclass(frozen=True, slots=True)
class Tissue:
    """Mean values of one tissue.

    ``hu`` and ``venous_hu`` are HU without contrast and in the portal venous phase, ``suv`` the FDG uptake
    (body weight), ``grain_hu`` the SD of its texture, ``strand_hu`` the height of the fine septa running
    through it.
    """

    hu: float
    venous_hu: float
    suv: float
    grain_hu: float = 0.0
    strand_hu: float = 0.0

    def value(self, channel: Channel) -> float:
        """Mean in HU or SUV."""
        match channel:
            case Channel.NATIVE_CT:
                return self.hu
            case Channel.VENOUS_CT:
                return self.venous_hu
            case Channel.FDG:
                return self.suv

    def grain(self, channel: Channel) -> float:
        """SD of the texture in HU or SUV."""
        return 0.06 * self.suv if channel is Channel.FDG else self.grain_hu

    def strands(self, channel: Channel) -> float:
        """Height of the septa in HU; they carry no uptake of their own."""
        return 0.0 if channel is Channel.FDG else self.strand_hu


AIR = Tissue(-1000, -1000, 0.0)
TABLE_SHELL = Tissue(150, 150, 0.0)
TABLE_FOAM = Tissue(-955, -955, 0.0)
SKIN = Tissue(10, 20, 0.9, 5)
FAT = Tissue(-108, -106, 0.25, 4, 14)
VISCERAL_FAT = Tissue(-102, -100, 0.35, 6, 30)
MUSCLE = Tissue(54, 64, 0.75, 6, -42)
CORTEX = Tissue(900, 900, 0.9, 60)
RIB_CORTEX = Tissue(620, 620, 0.8, 40)
MARROW = Tissue(190, 200, 1.3, 38)
CARTILAGE = Tissue(105, 110, 0.7, 12)
DISC = Tissue(85, 90, 0.7, 6)
SPINAL_CANAL = Tissue(22, 25, 1.4, 3)
LUNG = Tissue(-855, -850, 0.45, 14)
LUNG_VESSEL = Tissue(42, 150, 1.2)
BLOOD = Tissue(42, 155, 1.8, 2)
VENOUS_BLOOD = Tissue(42, 140, 1.8, 2)
HEART_MUSCLE = Tissue(48, 105, 3.2, 4)
LIVER = Tissue(58, 108, 2.2, 4)
LIVER_VESSEL = Tissue(42, 160, 2.0)
SPLEEN = Tissue(48, 118, 1.8, 3)
PANCREAS = Tissue(38, 92, 1.5, 10)
GALLBLADDER = Tissue(8, 8, 0.6)
KIDNEY_CORTEX = Tissue(32, 185, 2.6, 4)
KIDNEY_MEDULLA = Tissue(28, 150, 4.5, 4)
RENAL_PELVIS = Tissue(-40, -20, 9.0, 12)
GUT_WALL = Tissue(42, 88, 1.7, 5)
GUT_CONTENT = Tissue(18, 20, 1.0, 12)
GUT_GAS = Tissue(-920, -920, 0.2, 10)
STOOL = Tissue(20, 20, 0.9, 140)
BLADDER = Tissue(4, 6, 18.0)
PROSTATE = Tissue(42, 75, 1.6, 5)
BRAIN = Tissue(35, 40, 8.0, 3)
AIRWAY = Tissue(-985, -985, 0.1)
AIRWAY_WALL = Tissue(10, 40, 0.8)
OESOPHAGUS = Tissue(38, 60, 1.6, 4)
THYROID = Tissue(95, 150, 1.5, 4)
NODE = Tissue(40, 85, 6.5, 4)
LUNG_LESION = Tissue(35, 70, 8.0, 8)
LIVER_LESION = Tissue(40, 72, 7.0, 5)
Window = tuple[slice, slice]
Point = tuple[float, float, float]

WHOLE: Window = (slice(None), slice(None))
_WARP_MARGIN_MM = 9.0


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """Centre and half axes in patient mm (left, posterior, superior), turned in the axial plane."""

    centre: Point
    half_mm: Point
    turn_deg: float = 0.0


@dataclass(frozen=True, slots=True)
class Tube:
    """A chain of points in patient mm with a radius at each: vessels, airways, bowel."""

    points: tuple[Point, ...]
    radii_mm: tuple[float, ...]
    lowest: float = field(init=False)
    highest: float = field(init=False)

    def __post_init__(self) -> None:
        levels = [point[2] for point in self.points]
        object.__setattr__(self, "lowest", min(levels) - max(self.radii_mm))
        object.__setattr__(self, "highest", max(levels) + max(self.radii_mm))


class Canvas:
    """One slice being painted, in the anatomy's standard coordinates.

    ``u`` (towards the patient's left) and ``v`` (posterior) are (rows, columns) in mm, ``w`` is the height
    of the slice; ``scale_mm`` is the width of a pixel in the same units.
    """

    def __init__(
        self,
        u: FloatArray,
        v: FloatArray,
        w: float,
        channel: Channel,
        texture: FloatArray,
        strands: FloatArray,
        ground: Tissue,
    ) -> None:
        self.u, self.v, self.w = u, v, w
        self.channel = channel
        self.scale_mm = float(abs(u[0, -1] - u[0, 0]) / max(u.shape[1] - 1, 1))
        self.texture = texture
        self._ridge = np.exp(-((strands / 0.10) ** 2)).astype(np.float32)
        self._column_u, self._row_v = u[u.shape[0] // 2], v[:, v.shape[1] // 2]
        self.values = np.full(u.shape, ground.value(channel), np.float32)
        self.radius = np.hypot(u, v)
        self.angle = np.arctan2(v, u)

    def coverage(self, depth_mm: FloatArray) -> FloatArray:
        """Part of each pixel that lies inside, from the depth below a surface (positive inside)."""
        return np.asarray(np.clip(depth_mm / self.scale_mm + 0.5, 0.0, 1.0), np.float32)

    def paint(self, tissue: Tissue, coverage: FloatArray, window: Window = WHOLE) -> None:
        """Lay a tissue over what is there, by coverage 0 to 1."""
        colour: FloatArray | float = tissue.value(self.channel)
        grain, strands = tissue.grain(self.channel), tissue.strands(self.channel)
        if grain:
            colour = colour + grain * self.texture[window]
        if strands:
            colour = colour + strands * self._ridge[window]
        ground = self.values[window]
        ground += coverage * (colour - ground)

    def window(self, left: float, right: float, front: float, back: float) -> Window | None:
        """Pixels that may show what lies between these coordinates; None if outside the image."""
        columns = np.flatnonzero(
            (self._column_u >= left - _WARP_MARGIN_MM) & (self._column_u <= right + _WARP_MARGIN_MM)
        )
        rows = np.flatnonzero((self._row_v >= front - _WARP_MARGIN_MM) & (self._row_v <= back + _WARP_MARGIN_MM))
        if not columns.size or not rows.size:
            return None
        return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)

    def ellipsoid(
        self, shape: Ellipsoid, tissue: Tissue, inside: FloatArray | None = None, shrink_mm: float = 0.0
    ) -> None:
        """Paint an ellipsoid, clipped to the coverage ``inside`` of the whole slice."""
        part = self.ellipsoid_depth(shape, shrink_mm)
        if part is None:
            return
        window, depth = part
        coverage = self.coverage(depth)
        self.paint(tissue, coverage if inside is None else coverage * inside[window], window)

    def ellipsoid_depth(self, shape: Ellipsoid, shrink_mm: float = 0.0) -> tuple[Window, FloatArray] | None:
        """Where the slice meets an ellipsoid, and the depth in mm below its surface there."""
        (cu, cv, cw), half = shape.centre, tuple(axis - shrink_mm for axis in shape.half_mm)
        if min(half) <= 0 or abs(self.w - cw) >= half[2]:
            return None
        reach = max(half[0], half[1])
        window = self.window(cu - reach, cu + reach, cv - reach, cv + reach)
        if window is None:
            return None
        du, dv = self.u[window] - cu, self.v[window] - cv
        cos, sin = np.cos(np.deg2rad(shape.turn_deg)), np.sin(np.deg2rad(shape.turn_deg))
        a, b = (du * cos + dv * sin) / half[0], (dv * cos - du * sin) / half[1]
        rho = np.sqrt(a * a + b * b + ((self.w - cw) / half[2]) ** 2)
        slope = np.sqrt((a / half[0]) ** 2 + (b / half[1]) ** 2) / np.maximum(rho, 1e-3)
        return window, (1.0 - rho) / np.maximum(slope, 1.0 / reach)

    def tube(self, shape: Tube, tissue: Tissue, inside: FloatArray | None = None, wall_mm: float = 0.0) -> None:
        """Paint a tube; a positive ``wall_mm`` leaves out that much of its radius (for its content)."""
        if not shape.lowest < self.w < shape.highest:
            return
        chain = zip(shape.points, shape.points[1:], shape.radii_mm, shape.radii_mm[1:], strict=False)
        for start, end, first, last in chain:
            self._segment(start, end, first - wall_mm, last - wall_mm, tissue, inside)

    def tubes(self, shapes: Sequence[Tube], tissue: Tissue, inside: FloatArray | None = None) -> None:
        """Paint a tree of tubes."""
        for shape in shapes:
            if shape.lowest < self.w < shape.highest:
                self.tube(shape, tissue, inside)

    def _segment(
        self, start: Point, end: Point, first: float, last: float, tissue: Tissue, inside: FloatArray | None
    ) -> None:
        reach = max(first, last)
        if reach <= 0 or not min(start[2], end[2]) - reach < self.w < max(start[2], end[2]) + reach:
            return
        # only the piece of the segment near this slice bounds the window
        near = _clip_to_height(start, end, self.w, reach)
        window = self.window(near[0] - reach, near[1] + reach, near[2] - reach, near[3] + reach)
        if window is None:
            return
        axis = np.subtract(end, start)
        length2 = float(axis @ axis) or 1.0
        du, dv, dw = self.u[window] - start[0], self.v[window] - start[1], self.w - start[2]
        along = np.clip((du * axis[0] + dv * axis[1] + dw * axis[2]) / length2, 0.0, 1.0)
        away2 = (du - along * axis[0]) ** 2 + (dv - along * axis[1]) ** 2 + (dw - along * axis[2]) ** 2
        coverage = self.coverage(first + along * (last - first) - np.sqrt(away2))
        self.paint(tissue, coverage if inside is None else coverage * inside[window], window)


def _clip_to_height(start: Point, end: Point, w: float, reach: float) -> tuple[float, float, float, float]:
    rise = end[2] - start[2]
    if abs(rise) < 1e-6:
        low, high = 0.0, 1.0
    else:
        cuts = sorted(((w - reach - start[2]) / rise, (w + reach - start[2]) / rise))
        low, high = max(cuts[0], 0.0), min(cuts[1], 1.0)
    us = [start[0] + t * (end[0] - start[0]) for t in (low, high)]
    vs = [start[1] + t * (end[1] - start[1]) for t in (low, high)]
    return min(us), max(us), min(vs), max(vs)


def interpolate(table: npt.NDArray[np.float64], w: float) -> npt.NDArray[np.float64]:
    """Row of a table at height ``w``: first column heights in rising order, the rest values; ends are held."""
    return np.array([np.interp(w, table[:, 0], table[:, column]) for column in range(1, table.shape[1])])
