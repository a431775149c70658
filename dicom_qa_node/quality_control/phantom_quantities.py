"""The quantities that phantoms give, as measurements with name, meaning and unit (UCUM)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dicom_qa_node.domain.results import Measurement

__all__ = ["QUANTITIES", "SPHERES_MM", "Quantity", "ct_number", "measurement", "sphere_quantity"]

HU, MM, PER_MM, PERCENT, ONE, SUV = "[hnsf'U]", "mm", "/mm", "%", "1", "g/ml{SUVbw}"

SPHERES_MM = (10, 13, 17, 22, 28, 37)
"""Inner diameters of the spheres of the NEMA IQ phantom (NEMA NU 2-2018, section 7)."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a measured value is; ``definition`` says how it is obtained."""

    name: str
    meaning: str
    unit: str
    definition: str


_MATERIALS = {
    "air": "air", "pmp": "polymethylpentene", "ldpe": "low-density polyethylene", "poly": "polystyrene",
    "acrylic": "acrylic", "delrin": "Delrin", "teflon": "Teflon", "bone": "bone", "polyethylene": "polyethylene",
    "water": "water", "vial": "water vial", "50_bone": "50 % bone", "20_bone": "20 % bone",
}  # fmt: skip


def ct_number(material: str) -> Quantity:
    """Return the CT number of an insert; ``material`` as the phantom's analysis names it."""
    word = re.sub(r"[^a-z0-9]+", "_", material.lower()).strip("_")
    name = _MATERIALS.get(word, material)
    return Quantity(f"phantom_hu_{word}"[:64], f"CT number of {name}", HU, "mean or median of a disc in the insert")


def sphere_quantity(what: str, diameter_mm: int) -> Quantity:
    """Return a quantity of one sphere; ``what`` is a key of `_SPHERES`."""
    meaning, definition = _SPHERES[what]
    unit = PERCENT if what in ("contrast", "variability") else ONE
    words = f"{meaning}, {diameter_mm} mm"
    return Quantity(f"phantom_{what}_{diameter_mm}mm", words, unit, definition)


_SPHERES = {
    "contrast": ("Percent contrast Q_H", "(C_H / C_B - 1) / (a_H / a_B - 1) x 100, NEMA NU 2-2018 section 7.4.1"),
    "variability": ("Background variability N", "SD of 60 background discs of the sphere's size over their mean x 100"),
    "recovery_mean": ("Recovery, 50 % isocontour", "mean inside the 50 % isocontour adapted to the background over the "
                      "activity of the filling, EARL"),
    "recovery_max": ("Recovery, maximum", "highest voxel over the activity of the filling, EARL"),
    "ratio": ("Sphere to background", "C_H / C_B; given where the activity of the filling is not configured"),
}  # fmt: skip

_PLAIN = (
    Quantity("phantom_slice_thickness", "Slice thickness", MM, "width of the ramps' profile x tan 23 degrees"),
    Quantity("phantom_thickness_error", "Slice thickness less nominal", MM, "less Slice Thickness (0018,0050)"),
    Quantity("phantom_line_distance", "Distance of the nodes", MM, "mean of the four sides between the nodes, 50 mm"),
    Quantity("phantom_bb_distance", "Distance of the beads", MM, "distance of the two beads of module 3, 100 mm"),
    Quantity("phantom_hu_centre", "CT number of the centre", HU, "mean of the central disc of the uniform module"),
    Quantity("phantom_noise", "Noise of the centre", HU, "standard deviation of the central disc"),
    Quantity("phantom_edge_centre", "Edge less centre", HU, "the outer disc farthest from the centre, with its sign"),
    Quantity("phantom_uniformity_index", "Uniformity index", PERCENT, "Elstrom, equation 2"),
    Quantity("phantom_nonuniformity", "Integral non-uniformity", ONE, "(max - min) / (max + min) of the discs"),
    Quantity("phantom_mtf50", "Frequency of 50 % MTF", PER_MM, "line pairs relative to the coarsest"),
    Quantity("phantom_mtf10", "Frequency of 10 % MTF", PER_MM, "line pairs relative to the coarsest"),
    Quantity("phantom_low_contrast_discs", "Low-contrast discs seen", ONE, "discs of 1 % above the visibility of 0.15"),
    Quantity("phantom_cnr", "Contrast to noise", ONE, "|rod - background| / SD of the background"),
    Quantity("phantom_lung_error", "Lung error", PERCENT, "mean of the lung insert over the background x 100, NEMA"),
    Quantity("phantom_background_cov", "Variation of the background", PERCENT, "SD over mean of the voxels of the "
             "background discs"),
    Quantity("phantom_suv_mean", "Mean SUV", SUV, "mean of the inner 80 % of the cylinder"),
    Quantity("phantom_activity", "Mean activity", "Bq/ml", "mean of the inner 80 % of the cylinder"),
    Quantity("phantom_cov", "Variation of the voxels", PERCENT, "median over the slices of SD over mean"),
    Quantity("phantom_nonuniformity_max", "Highest above the mean", PERCENT, "largest 1 cm square over the mean"),
    Quantity("phantom_nonuniformity_min", "Lowest below the mean", PERCENT, "smallest 1 cm square below the mean"),
    Quantity("phantom_axial_deviation", "Axial non-uniformity", PERCENT, "largest deviation of a slice from the mean"),
)  # fmt: skip

QUANTITIES: Mapping[str, Quantity] = {
    item.name: item
    for item in (
        *_PLAIN,
        *(ct_number(material) for material in _MATERIALS),
        *(sphere_quantity(what, size) for what in _SPHERES for size in SPHERES_MM),
    )
}


def measurement(quantity: Quantity | str, value: float) -> Measurement:
    """Return a value as a measurement, without a tolerance yet."""
    found = QUANTITIES[quantity] if isinstance(quantity, str) else quantity
    return Measurement(found.name, found.meaning, round(float(value), 5), found.unit, "target")
