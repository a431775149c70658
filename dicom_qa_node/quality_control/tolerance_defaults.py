"""Tolerances of phantoms with which the node starts, each with its source; a site replaces them in the page."""

from __future__ import annotations

from collections.abc import Iterator

from dicom_qa_node.domain.qc_phantoms import PhantomKind, Tolerance
from dicom_qa_node.quality_control.phantom_quantities import SPHERES_MM

__all__ = ["DEFAULT_TOLERANCES"]

_CATPHANS = tuple(kind for kind in PhantomKind if kind.value.startswith("catphan"))

_CATPHAN_MANUAL = ("CatPhan manual, The Phantom Laboratory, ranges of CT numbers", "2013")
_TG66 = ("AAPM TG-66, Mutic et al., doi 10.1118/1.1609271, table of CT scanner tests", "2003")
_PYLINAC = ("default of pylinac 3.49, CatPhan.analyze", "2026")
_ACR = ("ACR CT accreditation, phantom test criteria (Gammex 464)", "2017")
_EARL = ("EARL, FDG-PET/CT accreditation specifications, tables 1 and 2", "2017-01")
_EANM = ("EANM procedure guidelines for FDG, Boellaard et al., doi 10.1007/s00259-014-2961-x, section on QC", "2015")

_MATERIALS_HU = {
    "air": (-1046, -986), "pmp": (-220, -172), "ldpe": (-121, -87), "water": (-7, 7), "vial": (-7, 7),
    "poly": (-65, -29), "acrylic": (92, 137), "delrin": (344, 387), "teflon": (941, 1060),
}  # fmt: skip
_ACR_HU = {
    "air": (-1005, -970),
    "polyethylene": (-107, -84),
    "acrylic": (110, 135),
    "bone": (850, 970),
    "water": (-7, 7),
}
_EARL_MEAN = ((0.27, 0.43), (0.44, 0.60), (0.57, 0.73), (0.63, 0.78), (0.72, 0.85), (0.76, 0.89))
_EARL_MAX = ((0.34, 0.57), (0.59, 0.85), (0.73, 1.01), (0.83, 1.09), (0.91, 1.13), (0.95, 1.16))


def _catphan(kind: PhantomKind) -> Iterator[Tolerance]:
    for material, (low, high) in _MATERIALS_HU.items():
        yield Tolerance(kind, f"phantom_hu_{material}", low, high, *_CATPHAN_MANUAL)
    yield Tolerance(kind, "phantom_edge_centre", -5.0, 5.0, *_TG66)
    yield Tolerance(kind, "phantom_line_distance", 49.0, 51.0, *_TG66)
    yield Tolerance(kind, "phantom_thickness_error", -0.2, 0.2, *_PYLINAC)
    yield Tolerance(kind, "phantom_low_contrast_discs", 1.0, None, *_PYLINAC)


def _acr() -> Iterator[Tolerance]:
    kind = PhantomKind.ACR_CT
    for material, (low, high) in _ACR_HU.items():
        yield Tolerance(kind, f"phantom_hu_{material}", low, high, *_ACR)
    yield Tolerance(kind, "phantom_hu_centre", -7.0, 7.0, *_ACR)
    yield Tolerance(kind, "phantom_edge_centre", -5.0, 5.0, *_ACR)
    yield Tolerance(kind, "phantom_cnr", 1.0, None, *_ACR)


def _others() -> Iterator[Tolerance]:
    yield Tolerance(PhantomKind.WATER, "phantom_hu_centre", -5.0, 5.0, *_TG66)
    yield Tolerance(PhantomKind.WATER, "phantom_edge_centre", -5.0, 5.0, *_TG66)
    yield Tolerance(PhantomKind.UNIFORM_PET, "phantom_suv_mean", 0.9, 1.1, *_EANM)
    for size, mean, highest in zip(SPHERES_MM, _EARL_MEAN, _EARL_MAX, strict=True):
        yield Tolerance(PhantomKind.NEMA_IQ_PET, f"phantom_recovery_mean_{size}mm", *mean, *_EARL)
        yield Tolerance(PhantomKind.NEMA_IQ_PET, f"phantom_recovery_max_{size}mm", *highest, *_EARL)


DEFAULT_TOLERANCES = (*(item for kind in _CATPHANS for item in _catphan(kind)), *_acr(), *_others())
