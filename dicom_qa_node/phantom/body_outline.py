"""The body's outline and its layers at one height: cavity, wall, muscle, fat, as radii over the angle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dicom_qa_node.phantom.patient import Patient
from dicom_qa_node.phantom.projector import FloatArray
from dicom_qa_node.phantom.voxel_canvas import Canvas, interpolate

Radii = npt.NDArray[np.float64]

WALL_MM = 13.0
SKIN_MM = 2.0
NECK_BASE = 205.0
HEAD_BASE = 232.0
LOWEST, HIGHEST = -410.0, 455.0

_ANGLES = 2880
_ANGLE = (np.arange(_ANGLES) + 0.5) / _ANGLES * 2 * np.pi - np.pi
_FRONT = np.maximum(-np.sin(_ANGLE), 0.0) ** 2
_BACK = np.maximum(np.sin(_ANGLE), 0.0) ** 2
_SIDE = np.cos(_ANGLE) ** 2

# height, half width, half depth of the body cavity (mm)
_CAVITY = np.array(
    [
        [-420, 70, 55], [-380, 88, 64], [-330, 102, 76], [-250, 118, 80], [-170, 121, 82], [-80, 127, 89],
        [0, 131, 93], [60, 128, 91], [110, 117, 82], [150, 96, 68], [180, 68, 55], [205, 42, 44],
    ]
)  # fmt: skip

# height, muscle outside the wall at the front, side and back (mm)
_MUSCLE = np.array(
    [
        [-420, 22, 70, 62], [-360, 14, 66, 66], [-310, 4, 52, 58], [-250, 2, 28, 42], [-170, 1, 9, 30],
        [-80, 1, 7, 26], [0, 3, 9, 25], [60, 10, 20, 26], [110, 17, 36, 28], [150, 20, 62, 30],
        [185, 16, 112, 30], [200, 8, 104, 28], [214, 4, 52, 26],
    ]
)  # fmt: skip

# height, share of the fat thickness at the front, side and back
_FAT = np.array(
    [
        [-420, 0.9, 1.3, 1.2], [-330, 1.0, 1.2, 1.5], [-200, 1.3, 1.0, 1.2], [-100, 1.0, 0.8, 0.8],
        [0, 0.65, 0.7, 0.6], [100, 0.55, 0.6, 0.5], [190, 0.4, 0.3, 0.45], [230, 0.3, 0.3, 0.35],
    ]
)  # fmt: skip

# height, half width, half depth of neck and head (mm)
_HEAD = np.array(
    [
        [205, 92, 62], [222, 70, 60], [255, 62, 60], [280, 66, 74], [315, 73, 92], [360, 78, 98],
        [400, 75, 93], [435, 57, 72], [452, 34, 44], [460, 12, 14],
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Outline:
    """Depth below each surface at every pixel, positive inside, (rows, columns) in mm."""

    skin: FloatArray
    fat: FloatArray
    muscle: FloatArray
    wall: FloatArray
    cavity: FloatArray
    half_width: float
    half_depth: float


def outline_at(patient: Patient, canvas: Canvas) -> Outline:
    """The layers at the height of the canvas."""
    w = canvas.w
    a, b = interpolate(_CAVITY, w)
    cavity = _superellipse(a, b, 2.25)
    wall = cavity + WALL_MM
    muscle = wall + _blend(interpolate(_MUSCLE, w))
    # the midline groove over the spine, and the arms' side of the trunk
    muscle = muscle - 9.0 * np.exp(-(((_ANGLE - np.pi / 2) / 0.13) ** 2))
    fat = muscle + patient.fat_mm * _blend(interpolate(_FAT, w)) + _breasts(patient, w)
    if w > NECK_BASE:
        part = min((w - NECK_BASE) / (HEAD_BASE - NECK_BASE), 1.0)
        head_width, head_depth = interpolate(_HEAD, w)
        head = _superellipse(head_width, head_depth, 2.1)
        fat = (1 - part) * fat + part * (head - SKIN_MM)
        muscle = (1 - part) * muscle + part * (head - SKIN_MM - 2.0 - 0.12 * patient.fat_mm)
        wall, cavity = np.minimum(wall, muscle) * (1 - part), cavity * (1 - part)
    index = ((canvas.angle + np.pi) * (_ANGLES / (2 * np.pi))).astype(np.intp)
    np.minimum(index, _ANGLES - 1, out=index)

    def depth(radii: Radii) -> FloatArray:
        return np.asarray(radii.astype(np.float32)[index] - canvas.radius, np.float32)

    return Outline(
        skin=depth(fat + SKIN_MM),
        fat=depth(fat),
        muscle=depth(muscle),
        wall=depth(wall),
        cavity=depth(cavity),
        half_width=float(a),
        half_depth=float(b),
    )


def cavity_half_depth(w: float) -> float:
    """Half depth of the body cavity at a height, in mm: where the spine stands."""
    return float(interpolate(_CAVITY, w)[1])


def _superellipse(a: float, b: float, power: float) -> Radii:
    shape = np.abs(np.cos(_ANGLE) / a) ** power + np.abs(np.sin(_ANGLE) / b) ** power
    return np.asarray(shape ** (-1.0 / power), np.float64)


def _blend(values: npt.NDArray[np.float64]) -> Radii:
    front, side, back = values
    return np.asarray(front * _FRONT + side * _SIDE + back * _BACK, np.float64)


def _breasts(patient: Patient, w: float) -> Radii:
    if patient.sex != "F":
        return np.zeros_like(_ANGLE)
    size = (22.0 + 0.9 * patient.fat_mm) * np.exp(-(((w - 62.0) / 34.0) ** 2))
    bumps = [np.exp(-(((_ANGLE + np.pi / 2 + side * 0.68) / 0.33) ** 2)) for side in (-1, 1)]
    return np.asarray(size * np.sum(bumps, axis=0), np.float64)
