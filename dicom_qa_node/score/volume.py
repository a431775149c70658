"""The assembled volume: what `assemble` hands to slice selection, measurement and the network."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_qa_node.records import Finding, SeriesKind

__all__ = ["FloatArray", "Volume"]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Volume:
    """One stack of parallel slices in physical space, ordered along the slice normal.

    Attributes
    ----------
    voxels
        float32, shape (slices, rows, columns), in ``unit`` after the rescale of PS3.3 C.11.1.
    unit
        "HU" for CT; "SUVbw" for PET where it can be computed, else "BQML" or "relative".
    spacing_mm
        (slice, row, column): distances between neighbouring voxel centres.
    origin_mm
        Patient coordinates (LPS, PS3.3 C.7.6.2.1.1) of the centre of voxel [0, 0, 0].
    direction
        shape (3, 3); column k is the unit vector along which index k (slice, row, column) grows.
    positions_mm
        shape (slices,): position of each slice along the slice normal; uneven where slices are missing.
    sop_instance_uids, sop_class_uids, frame_numbers
        One per slice; the frame number counts from 1 in a multi-frame object and is None otherwise.
    valid
        bool, shape of ``voxels``, False in padding (Pixel Padding Value, PS3.3 C.7.5.1.1.2); None: all valid.
    header
        Attributes of the first slice (for a multi-frame object with its functional groups flattened), no pixels.
    part
        Names this stack where one series holds several (acquisition, phase, echo); "" otherwise.
    findings
        What assembly has to say: gaps, duplicates, left-out objects, missing tags.
    """

    voxels: FloatArray
    kind: SeriesKind
    unit: str
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: npt.NDArray[np.float64]
    positions_mm: npt.NDArray[np.float64]
    sop_instance_uids: tuple[str, ...]
    sop_class_uids: tuple[str, ...]
    frame_numbers: tuple[int | None, ...]
    header: Dataset
    valid: npt.NDArray[np.bool_] | None = None
    part: str = ""
    findings: tuple[Finding, ...] = field(default_factory=tuple)
