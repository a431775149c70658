"""Completeness and geometry of any volume."""

from __future__ import annotations

import numpy as np

from dicom_qa_node.records import Measurement
from dicom_qa_node.score.attributes import number
from dicom_qa_node.score.physics.stack_quantities import STACK
from dicom_qa_node.score.volume import Volume

__all__ = ["announced_slices", "missing_slices", "stack_measurements"]


def stack_measurements(volume: Volume) -> tuple[Measurement, ...]:
    """Measure completeness and geometry (PS3.3 C.7.6.2).

    * ``slices_used`` (slices, context): those of the volume.
    * ``completeness`` (%, higher is better): slices / announced ones, (0054,0081) of PET or (0020,1002) of CT.
    * ``missing_slices`` (slices, lower is better): sum over gaps of round(gap / usual distance) - 1.
    * ``largest_gap`` (mm, lower is better): largest difference of neighbouring positions along the normal.
    * ``slice_thickness`` (mm, context): Slice Thickness (0018,0050).
    * ``slice_spacing`` (mm, context): median difference of neighbouring positions along the normal.
    * ``uncovered_gap`` (mm, lower is better): distance - thickness; negative where slices overlap.
    * ``pixel_size`` (mm, context): square root of the product of both Pixel Spacings (0028,0030).
    * ``scan_length`` (mm, context): distance of first and last slice + distance of slices.
    * ``tilt`` (degrees, context): angle between the slice normal and the patient's long axis.
    """
    spacing = volume.spacing_mm
    count = len(volume.positions_mm)
    length = float(volume.positions_mm[-1] - volume.positions_mm[0]) + spacing[0]
    normal = np.cross(volume.direction[:, 2], volume.direction[:, 1])
    cosine = min(1.0, abs(float(normal[2])))
    return (
        STACK.value("slices_used", count),
        _completeness(volume),
        *_gaps(volume),
        *_thickness(volume),
        STACK.value("pixel_size", float(np.sqrt(spacing[1] * spacing[2]))),
        STACK.value("scan_length", length),
        STACK.value("tilt", float(np.degrees(np.arccos(cosine)))),
    )


def announced_slices(volume: Volume) -> int | None:
    """Number of slices that the header promises for this volume; None where it says nothing.

    Number of Slices (0054,0081) for PET (per time slice), Images in Acquisition (0020,1002) for CT.
    """
    keyword = "NumberOfSlices" if "NumberOfSlices" in volume.header else "ImagesInAcquisition"
    announced = number(volume.header, keyword)
    return int(announced) if announced is not None and announced >= 1 else None


def missing_slices(volume: Volume) -> int:
    """Slices that are missing between the first and the last one."""
    if len(volume.positions_mm) < 3 or volume.spacing_mm[0] <= 0:
        return 0
    steps = np.diff(volume.positions_mm) / volume.spacing_mm[0]
    return int(np.maximum(np.rint(steps) - 1, 0).sum())


def _completeness(volume: Volume) -> Measurement:
    announced = announced_slices(volume)
    if announced is None:
        return STACK.absent("completeness", "the header announces no number of slices")
    count = len(volume.positions_mm)
    return STACK.value("completeness", 100.0 * count / announced, f"{count} of {announced} slices")


def _gaps(volume: Volume) -> tuple[Measurement, ...]:
    if len(volume.positions_mm) < 2:
        names = ("missing_slices", "largest_gap", "slice_spacing")
        return STACK.absent_all(names, "a single slice")
    steps = np.diff(volume.positions_mm)
    worst = int(np.argmax(steps))
    return (
        STACK.value("missing_slices", missing_slices(volume)),
        STACK.value("largest_gap", float(steps[worst]), f"between slices {worst + 1} and {worst + 2}"),
        STACK.value("slice_spacing", float(np.median(steps))),
    )


def _thickness(volume: Volume) -> tuple[Measurement, ...]:
    thickness = number(volume.header, "SliceThickness")
    if thickness is None or thickness <= 0:
        return STACK.absent_all(("slice_thickness", "uncovered_gap"), "the header gives no slice thickness (0018,0050)")
    value = STACK.value("slice_thickness", thickness)
    if len(volume.positions_mm) < 2:
        return value, STACK.absent("uncovered_gap", "a single slice")
    return value, STACK.value("uncovered_gap", volume.spacing_mm[0] - thickness)
