"""The measurements of any series: completeness and geometry."""

from __future__ import annotations

from dicom_qa_node.records import Code
from dicom_qa_node.score.physics.quantity import Direction, Quantity, Register, private

__all__ = ["STACK"]

STACK = Register(
    (
        Quantity(
            "slices_used",
            "Slices in the volume",
            "{slices}",
            Direction.CONTEXT,
            "slices of the assembled volume",
            "own definition",
            private("S101", "Slices in the volume"),
        ),
        Quantity(
            "completeness",
            "Slices received of those announced",
            "%",
            Direction.HIGHER,
            "slices / Number of Slices (0054,0081) of PET or Images in Acquisition (0020,1002) of CT",
            "PS3.3 C.8.9.1 and C.7.6.1",
            private("S102", "Slices received of those announced"),
        ),
        Quantity(
            "missing_slices",
            "Slices missing inside the volume",
            "{slices}",
            Direction.LOWER,
            "sum over gaps of round(gap / usual distance) - 1",
            "own definition",
            private("S103", "Slices missing inside the volume"),
        ),
        Quantity(
            "largest_gap",
            "Largest distance of neighbouring slices",
            "mm",
            Direction.LOWER,
            "largest difference of positions along the slice normal",
            "PS3.3 C.7.6.2.1.1",
            private("S104", "Largest distance of neighbouring slices"),
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
            private("S105", "Unimaged gap between slices"),
        ),
        Quantity(
            "pixel_size",
            "Pixel size",
            "mm",
            Direction.CONTEXT,
            "square root of the product of the two values of Pixel Spacing (0028,0030)",
            "PS3.3 C.7.6.2",
            private("S106", "Pixel size"),
        ),
        Quantity(
            "scan_length",
            "Length of the volume",
            "mm",
            Direction.CONTEXT,
            "distance of first and last slice + distance of slices",
            "own definition",
            private("S107", "Length of the volume"),
        ),
        Quantity(
            "tilt",
            "Angle of the slices to the axial plane",
            "deg",
            Direction.CONTEXT,
            "angle between slice normal and the patient's long axis",
            "PS3.3 C.7.6.2.1.1",
            private("S108", "Angle of the slices to the axial plane"),
        ),
    )
)
