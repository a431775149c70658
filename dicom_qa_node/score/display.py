"""Makes the pictures that the network judges and people see: windowed, fused, turned as radiologists view them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dicom_qa_node.records import SeriesKind
from dicom_qa_node.score.geometry import Turn, display_turn
from dicom_qa_node.score.pairing import ct_slice_at
from dicom_qa_node.score.prepare import Window, ct_picture, fused_picture, pt_picture
from dicom_qa_node.score.reading_windows import windows_of
from dicom_qa_node.score.resample import on_slice
from dicom_qa_node.score.volume import Volume

__all__ = ["display_pictures", "suv_scale"]

Pictures = npt.NDArray[np.uint8]

_SAMPLE = 4


def display_pictures(
    volume: Volume, indices: Sequence[int], ct: Volume | None = None, windows: Sequence[Window] | None = None
) -> Pictures:
    """Return uint8 RGB pictures of slices, shape (n, rows, columns, 3).

    Parameters
    ----------
    volume
        CT, or PET alone or to be fused.
    indices
        Slices of ``volume``.
    ct
        Fuse with this CT: each picture lies on the grid of the CT slice nearest to the PET slice, the PET is
        resampled onto it through physical space.
    windows
        The window of each slice of a CT; by `reading_windows.windows_of` where they are not given.
    """
    if ct is not None:
        scale = suv_scale(volume)
        pictures = [_fused(volume, index, ct, scale) for index in indices]
        return _turned(pictures, display_turn(ct.direction))
    if volume.kind is SeriesKind.CT:
        chosen = windows_of(volume, indices) if windows is None else windows
        pictures = [ct_picture(volume.voxels[index], window) for index, window in zip(indices, chosen, strict=True)]
    else:
        scale = suv_scale(volume)
        pictures = [pt_picture(volume.voxels[index] * scale) for index in indices]
    return _turned(pictures, display_turn(volume.direction))


def suv_scale(volume: Volume) -> np.float32:
    """Return the factor to SUV: 1 for SUV, else that which makes the mean over the body 1.

    A dose that stays in the body and spreads evenly has SUV 1 everywhere, so the body's mean lies near 1.
    """
    if volume.unit.startswith("SUV"):
        return np.float32(1.0)
    sample = np.asarray(volume.voxels[:, ::_SAMPLE, ::_SAMPLE], np.float64)
    bright = sample[sample > sample.mean()]
    inside = sample[sample > 0.1 * bright.mean()] if bright.size else bright
    return np.float32(1.0 / inside.mean()) if inside.size and inside.mean() > 0 else np.float32(1.0)


def _fused(pet: Volume, index: int, ct: Volume, scale: np.float32) -> Pictures:
    ct_index = ct_slice_at(pet, index, ct)
    hu = ct.voxels[ct_index]
    uptake = on_slice(pet, ct, ct_index) * scale
    return fused_picture(hu, np.nan_to_num(uptake, nan=0.0))


def _turned(pictures: Sequence[Pictures], turn: Turn) -> Pictures:
    return np.ascontiguousarray(np.stack([turn.apply(picture) for picture in pictures]), dtype=np.uint8)
