"""How the slices of a volume lie in the patient: axial, reformatted, tilted, lying on a side."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_qa_node.phantom.projector import FloatArray
from dicom_qa_node.phantom.volumes import AIR_HU, Volume

Vector = npt.NDArray[np.float64]


class Plane(StrEnum):
    """Image planes and the ways to lie that turn them.

    The names of the turned axial ones are the Patient Position terms of PS3.3 C.7.3.1.1.2 they belong to.
    """

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"
    PRONE = "prone"
    RIGHT_DOWN = "decubitus-right"
    LEFT_DOWN = "decubitus-left"


@dataclass(frozen=True)
class Frame:
    """One image: pixels (rows, columns), and where they are (PS3.3 C.7.6.2.1.1)."""

    pixels: FloatArray
    position_mm: tuple[float, float, float]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, float]
    exposure: float


# stack, row and column axes as (source axis, sign); source axes are 0 slice (up), 1 row (back), 2 column (left)
_AXES: dict[Plane, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    Plane.AXIAL: ((0, 1), (1, 1), (2, 1)),
    Plane.CORONAL: ((1, 1), (0, -1), (2, 1)),
    Plane.SAGITTAL: ((2, 1), (0, -1), (1, 1)),
    Plane.PRONE: ((0, 1), (1, -1), (2, -1)),
    Plane.RIGHT_DOWN: ((0, 1), (2, -1), (1, 1)),
    Plane.LEFT_DOWN: ((0, 1), (2, 1), (1, -1)),
}
# patient directions (left, posterior, superior) of the source axes
_DIRECTION = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


def frames_of(volume: Volume, plane: Plane, tilt_deg: float, origin_mm: tuple[float, float, float]) -> list[Frame]:
    """Images of a volume in the wanted plane; ``origin_mm`` is added to every position."""
    if tilt_deg:
        if plane is not Plane.AXIAL:
            raise ValueError("a tilted gantry takes axial slices")
        return _tilted(volume, tilt_deg, np.asarray(origin_mm))
    step = float(np.diff(volume.heights_mm).mean()) if len(volume.heights_mm) > 1 else 1.0
    size = np.array([step, volume.pixel_mm, volume.pixel_mm])
    x, y = volume.first_pixel_mm
    first = np.array([x, y, volume.heights_mm[0]]) + origin_mm
    stack, row, column = _AXES[plane]
    voxels = volume.voxels
    for axis, sign in (stack, row, column):
        if sign < 0:
            first = first + _DIRECTION[axis] * size[axis] * (voxels.shape[axis] - 1)
            voxels = np.flip(voxels, axis)
    voxels = voxels.transpose(stack[0], row[0], column[0])
    cosines = (*_cosine(column), *_cosine(row))
    exposure = volume.exposure if stack[0] == 0 else np.full(voxels.shape[0], volume.exposure.mean())
    return [
        Frame(
            pixels=np.ascontiguousarray(image),
            position_mm=_triple(first + index * size[stack[0]] * np.asarray(_cosine(stack))),
            orientation=cosines,
            spacing_mm=(float(size[row[0]]), float(size[column[0]])),
            exposure=float(exposure[index]),
        )
        for index, image in enumerate(voxels)
    ]


def _cosine(axis: tuple[int, int]) -> tuple[float, float, float]:
    return _triple(_DIRECTION[axis[0]] * axis[1])


def _triple(vector: Vector) -> tuple[float, float, float]:
    return float(vector[0]), float(vector[1]), float(vector[2])


def _tilted(volume: Volume, tilt_deg: float, origin: Vector) -> list[Frame]:
    """Slices whose rows lean towards the feet; the table still moves along the body, so the stack is sheared."""
    count, rows, columns = volume.voxels.shape
    angle = np.deg2rad(tilt_deg)
    step = float(np.diff(volume.heights_mm).mean()) if count > 1 else 1.0
    x, y = volume.first_pixel_mm
    along_row = y + np.arange(rows) * volume.pixel_mm
    source_row = (along_row * np.cos(angle) - y) / volume.pixel_mm
    frames = []
    for index, level in enumerate(volume.heights_mm):
        source_slice = index - along_row * np.sin(angle) / step
        grid = np.broadcast_arrays(source_slice[:, None], source_row[:, None], np.arange(columns)[None, :])
        pixels = ndimage.map_coordinates(volume.voxels, np.stack(grid), order=1, mode="nearest", cval=AIR_HU)
        corner = np.array([x, y * np.cos(angle), level - y * np.sin(angle)]) + origin
        frames.append(
            Frame(
                pixels=np.asarray(pixels, np.float32),
                position_mm=_triple(corner),
                orientation=(1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(-np.sin(angle))),
                spacing_mm=(volume.pixel_mm, volume.pixel_mm),
                exposure=float(volume.exposure[index]),
            )
        )
    return frames
