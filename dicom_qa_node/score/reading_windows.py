"""The window that each slice of a CT is read in.

Soft and medium kernels are read in the soft-tissue window; of sharp ones the lungs in the lung window, the rest in the
bone window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_qa_node.score.display_images import BONE, LUNG, SOFT_TISSUE, Window
from dicom_qa_node.score.kernel_sharpness import KernelSharpness, sharpness_of_volume
from dicom_qa_node.score.physics.ct_sampling import block_mean, body_mask
from dicom_qa_node.score.volume import BoolArray, FloatArray, Volume

__all__ = ["lung_share", "readable_slices", "unread_window", "windows_of"]

_SAMPLE_MM = 4.5
_LUNG_HU = (-960.0, -450.0)
_LUNG_SHARE = 0.10
_LUNG_SLICES = 3


def windows_of(volume: Volume, indices: Sequence[int], kernel: KernelSharpness | None = None) -> tuple[Window, ...]:
    """Return the window that each of the given slices of a CT is read in.

    Parameters
    ----------
    volume
        CT.
    indices
        Slices of it.
    kernel
        Its sharpness; measured here where it is not given.
    """
    kernel = kernel or sharpness_of_volume(volume)
    if not kernel.sharp:
        return (SOFT_TISSUE,) * len(indices)
    return tuple(LUNG if lung_share(volume, index) >= _LUNG_SHARE else BONE for index in indices)


def readable_slices(volume: Volume, kernel: KernelSharpness | None = None) -> BoolArray | None:
    """Return which slices a series may be judged by, shape (slices,); None where all may.

    A chest in a sharp kernel is made for the lungs: its slices of abdomen show noise that nobody reads.
    """
    kernel = kernel or sharpness_of_volume(volume)
    if not kernel.sharp:
        return None
    shares = np.array([lung_share(volume, index) for index in range(len(volume.positions_mm))])
    lungs = shares >= _LUNG_SHARE
    fewest = min(_LUNG_SLICES, len(shares))
    return lungs if np.count_nonzero(lungs) >= fewest else None


def unread_window(windows: Sequence[Window], kernel: KernelSharpness | None) -> str:
    """Return why the networks must not judge slices read in these windows, "" if they may."""
    if kernel is None or BONE not in windows:
        return ""
    return f"the kernel {kernel.detail} is made for bone, and the model has seen no CT in the bone window"


def lung_share(volume: Volume, index: int) -> float:
    """Return the share (0-1) of the body in one slice that is lung; 0 where there is no body."""
    small, step_mm = _sampled(volume, index)
    body = body_mask(small, step_mm)
    area = int(np.count_nonzero(body))
    if area == 0:
        return 0.0
    airy = body & (small > _LUNG_HU[0]) & (small < _LUNG_HU[1])
    # what is one sample wide is the partial volume of skin or bowel gas
    return float(np.count_nonzero(ndimage.binary_opening(airy, np.ones((3, 3)))) / area)


def _sampled(volume: Volume, index: int) -> tuple[FloatArray, float]:
    values: npt.NDArray[np.float32] = np.maximum(volume.voxels[index], np.float32(-1000.0))
    factor = max(1, round(_SAMPLE_MM / min(volume.spacing_mm[1:])))
    return block_mean(values, (factor, factor)), factor * min(volume.spacing_mm[1:])
