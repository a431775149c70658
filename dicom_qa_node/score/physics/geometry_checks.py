"""Completeness and geometry of a volume: quantities and their measurement."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dicom_qa_node.dicom_io.headers import number
from dicom_qa_node.domain.codes import Code, private_code
from dicom_qa_node.domain.results import Measurement
from dicom_qa_node.score.physics.quantities import Direction, Quantity, Register
from dicom_qa_node.score.slice_geometry import spacing_of
from dicom_qa_node.score.volume import Volume

__all__ = ["GEOMETRY_QUANTITIES", "announced_slices", "geometry_measurements", "missing_slices"]


def geometry_measurements(volume: Volume) -> tuple[Measurement, ...]:
    """Measure completeness and geometry (PS3.3 C.7.6.2).

    * ``slices_used`` (slices, context): those of the volume.
    * ``completeness`` (%, higher is better): slices that came / Number of Slices (0054,0081) of PET.
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
        GEOMETRY_QUANTITIES.value("slices_used", count),
        _completeness(volume),
        *_gaps(volume),
        *_thickness(volume),
        GEOMETRY_QUANTITIES.value("pixel_size", float(np.sqrt(spacing[1] * spacing[2]))),
        GEOMETRY_QUANTITIES.value("scan_length", length),
        GEOMETRY_QUANTITIES.value("tilt", float(np.degrees(np.arccos(cosine)))),
    )


def announced_slices(volume: Volume) -> int | None:
    """Number of Slices (0054,0081) of PET, which counts this volume (per time slice); None where it is absent.

    Images in Acquisition (0020,1002) of CT counts the acquisition, from which any number of series may come.
    """
    announced = number(volume.header, "NumberOfSlices")
    return int(announced) if announced is not None and announced >= 1 else None


def missing_slices(volume: Volume) -> int:
    """Slices that are missing between the first and the last one, by the rule of `geometry.spacing_of`."""
    return spacing_of(_occupied(volume)).missing


def _occupied(volume: Volume) -> npt.NDArray[np.float64]:
    """Positions of all slices that came, blank ones too, ascending."""
    return np.unique(np.concatenate([volume.positions_mm, np.asarray(volume.blank_mm, float)]))


def _completeness(volume: Volume) -> Measurement:
    announced = announced_slices(volume)
    if announced is None:
        return GEOMETRY_QUANTITIES.absent("completeness", "the header announces no number of slices")
    count = len(_occupied(volume))
    return GEOMETRY_QUANTITIES.value("completeness", 100.0 * count / announced, f"{count} of {announced} slices")


def _gaps(volume: Volume) -> tuple[Measurement, ...]:
    places = _occupied(volume)
    if len(places) < 2:
        names = ("missing_slices", "largest_gap", "slice_spacing")
        return GEOMETRY_QUANTITIES.absent_all(names, "a single slice")
    steps = np.diff(places)
    worst = int(np.argmax(steps))
    return (
        GEOMETRY_QUANTITIES.value("missing_slices", missing_slices(volume)),
        GEOMETRY_QUANTITIES.value("largest_gap", float(steps[worst]), f"between slices {worst + 1} and {worst + 2}"),
        GEOMETRY_QUANTITIES.value("slice_spacing", float(np.median(steps))),
    )


def _thickness(volume: Volume) -> tuple[Measurement, ...]:
    known = [value for value in volume.thickness_mm if value] or [number(volume.header, "SliceThickness") or 0.0]
    thickness = float(np.median(known))
    if thickness <= 0:
        return GEOMETRY_QUANTITIES.absent_all(
            ("slice_thickness", "uncovered_gap"), "the header gives no slice thickness (0018,0050)"
        )
    zones = f"{min(known):g} to {max(known):g} mm" if max(known) > 1.02 * min(known) else ""
    value = GEOMETRY_QUANTITIES.value("slice_thickness", thickness, zones)
    if len(volume.positions_mm) < 2:
        return value, GEOMETRY_QUANTITIES.absent("uncovered_gap", "a single slice")
    return value, GEOMETRY_QUANTITIES.value("uncovered_gap", volume.spacing_mm[0] - thickness)


GEOMETRY_QUANTITIES = Register(
    (
        Quantity(
            "slices_used",
            "Slices in the volume",
            "{slices}",
            Direction.CONTEXT,
            "slices of the assembled volume",
            "own definition",
            private_code("S101", "Slices in the volume"),
        ),
        Quantity(
            "completeness",
            "Slices received of those announced",
            "%",
            Direction.HIGHER,
            "slices / Number of Slices (0054,0081) of PET",
            "PS3.3 C.8.9.1",
            private_code("S102", "Slices received of those announced"),
        ),
        Quantity(
            "missing_slices",
            "Slices missing inside the volume",
            "{slices}",
            Direction.LOWER,
            "sum over single gaps of round(gap / distance in their zone) - 1",
            "own definition",
            private_code("S103", "Slices missing inside the volume"),
        ),
        Quantity(
            "largest_gap",
            "Largest distance of neighbouring slices",
            "mm",
            Direction.LOWER,
            "largest difference of positions along the slice normal",
            "PS3.3 C.7.6.2.1.1",
            private_code("S104", "Largest distance of neighbouring slices"),
        ),
        Quantity(
            "slice_thickness",
            "Slice thickness",
            "mm",
            Direction.CONTEXT,
            "Slice Thickness (0018,0050)",
            "PS3.3 C.7.6.2",
            Code("112225", "DCM", "Slice Thickness"),
        ),
        Quantity(
            "slice_spacing",
            "Distance of slices",
            "mm",
            Direction.CONTEXT,
            "median difference of positions along the slice normal",
            "PS3.3 C.7.6.2.1.1",
            Code("112226", "DCM", "Spacing between slices"),
        ),
        Quantity(
            "uncovered_gap",
            "Unimaged gap between slices",
            "mm",
            Direction.LOWER,
            "distance of slices - slice thickness; negative where slices overlap",
            "own definition",
            private_code("S105", "Unimaged gap between slices"),
        ),
        Quantity(
            "pixel_size",
            "Pixel size",
            "mm",
            Direction.CONTEXT,
            "square root of the product of the two values of Pixel Spacing (0028,0030)",
            "PS3.3 C.7.6.2",
            private_code("S106", "Pixel size"),
        ),
        Quantity(
            "scan_length",
            "Length of the volume",
            "mm",
            Direction.CONTEXT,
            "distance of first and last slice + distance of slices",
            "own definition",
            private_code("S107", "Length of the volume"),
        ),
        Quantity(
            "tilt",
            "Angle of the slices to the axial plane",
            "deg",
            Direction.CONTEXT,
            "angle between slice normal and the patient's long axis",
            "PS3.3 C.7.6.2.1.1",
            private_code("S108", "Angle of the slices to the axial plane"),
        ),
    )
)
