"""The quantities that phantoms give, as measurements with name, meaning and unit (UCUM)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dicom_qa_node.domain.qc_phantoms import PhantomKind
from dicom_qa_node.domain.results import Measurement

__all__ = ["QUANTITIES", "SPHERES_MM", "Quantity", "ct_number", "materials_of", "measurement", "quantities_of",
           "sphere_quantity"]  # fmt: skip

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
    "lung_7112": "lung #7112",
}  # fmt: skip
_OTHER_ORDER = {"bone_50": "50_bone", "bone_20": "20_bone"}
"""The CatPhan 700's names of materials that the 604 has, too."""


def ct_number(material: str) -> Quantity:
    """Return the CT number of an insert; ``material`` as the phantom's analysis names it."""
    word = re.sub(r"[^a-z0-9]+", "_", material.lower()).strip("_")
    word = _OTHER_ORDER.get(word, word)
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


_OF_CATPHANS = ("slice_thickness", "thickness_error", "line_distance", "hu_centre", "edge_centre", "noise",
                "uniformity_index", "nonuniformity", "mtf50", "mtf10", "low_contrast_discs")  # fmt: skip
_IN_ALL_CATPHANS = ("air", "pmp", "ldpe", "poly", "acrylic", "delrin", "teflon")
_INSERTS = {
    PhantomKind.CATPHAN503: _IN_ALL_CATPHANS,
    PhantomKind.CATPHAN504: _IN_ALL_CATPHANS,
    PhantomKind.CATPHAN600: (*_IN_ALL_CATPHANS, "vial"),
    PhantomKind.CATPHAN604: (*_IN_ALL_CATPHANS, "20_bone", "50_bone"),
    PhantomKind.CATPHAN700: (*_IN_ALL_CATPHANS, "20_bone", "50_bone", "lung_7112", "vial"),
    PhantomKind.ACR_CT: ("air", "polyethylene", "acrylic", "bone", "water"),
}
_MISSING = {PhantomKind.CATPHAN503: ("low_contrast_discs",), PhantomKind.CATPHAN700: ("line_distance",)}
_OTHERS = {
    PhantomKind.ACR_CT: ("hu_centre", "edge_centre", "noise", "bb_distance", "cnr", "mtf50", "mtf10"),
    PhantomKind.WATER: ("hu_centre", "edge_centre", "noise"),
    PhantomKind.NEMA_IQ_PET: ("lung_error", "background_cov"),
    PhantomKind.UNIFORM_PET: ("suv_mean", "activity", "cov", "nonuniformity_max", "nonuniformity_min",
                              "axial_deviation"),
}  # fmt: skip


def materials_of(kind: PhantomKind) -> tuple[str, ...]:
    """Return the materials of the inserts of a phantom, as `ct_number` takes them."""
    return _INSERTS.get(kind, ())


def quantities_of(kind: PhantomKind) -> tuple[Quantity, ...]:
    """Return every quantity that an analysis of a kind of phantom may give, the CT numbers of its inserts first."""
    spheres = [f"{what}_{size}mm" for what in _SPHERES for size in SPHERES_MM]
    plain = [name for name in _OTHERS.get(kind, _OF_CATPHANS) if name not in _MISSING.get(kind, ())]
    names = [f"hu_{word}" for word in materials_of(kind)] + (spheres if kind is PhantomKind.NEMA_IQ_PET else []) + plain
    return tuple(QUANTITIES[f"phantom_{name}"] for name in names)


def measurement(quantity: Quantity | str, value: float) -> Measurement:
    """Return a value as a measurement, without a tolerance yet."""
    found = QUANTITIES[quantity] if isinstance(quantity, str) else quantity
    return Measurement(found.name, found.meaning, round(float(value), 5), found.unit, "target")
