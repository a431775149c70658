"""Tolerances of phantoms with which the node starts, each with its source; a site replaces them in the page.

A quantity without a published tolerance that could be read has none here and is not judged until the site sets its
own: noise, MTF, uniformity of CatPhan and water phantoms, contrast to noise, NEMA contrast and variability.
"""

from __future__ import annotations

from collections.abc import Iterator

from dicom_qa_node.domain.qc_phantoms import PhantomKind, Tolerance
from dicom_qa_node.quality_control.phantom_quantities import SPHERES_MM, materials_of

__all__ = ["DEFAULT_TOLERANCES"]

_CATPHANS = tuple(kind for kind in PhantomKind if kind.value.startswith("catphan"))

_CATPHAN_MANUAL = ("The Phantom Laboratory, CatPhan 503 manual, Sensitometry, HU range, p. 15", "2017-01-12")
_CATPHAN_BONE = ("pylinac 3.49, module ct, HU ranges taken from the CatPhan manuals", "2026")
_PYLINAC = ("pylinac 3.49, CatPhan.analyze, default of {}", "2026")
_ACR_HU = ("ACR CT accreditation, Phantom Scoring: CT (support article 11000054129), criteria for HU", "2024-08-26")
_ACR_UNIFORMITY = ("ACR CT accreditation, Phantom Scoring: CT (support article 11000054129): a difference of 5 to 7 HU "
                   "is a minor deficiency, above 7 HU a major one", "2022-12-05")  # fmt: skip
_ACR_WATER = ("ACR CT quality control, daily scan of the water phantom, as radser.com/ct-acr-qc-program states it", "")
_EARL = ("EARL, FDG-PET/CT accreditation specifications (R. Boellaard), tables 1 and 2", "2017-01")
_EARL_CALIBRATION = ("EARL, FDG-PET/CT accreditation: calibration factor within 10 % (earl.eanm.org/about); Kaalep et "
                     "al., doi 10.1007/s00259-017-3853-7", "2018")  # fmt: skip

_MATERIALS_HU = {
    "air": (-1046, -986), "pmp": (-220, -172), "ldpe": (-121, -87), "vial": (-7, 7), "poly": (-65, -29),
    "acrylic": (92, 137), "delrin": (344, 387), "teflon": (941, 1060),
}  # fmt: skip
_BONE_HU = {"20_bone": (211, 263), "50_bone": (667, 783), "lung_7112": (-925, -810)}
_ACR_MATERIALS_HU = {
    "air": (-1005, -970), "polyethylene": (-107, -84), "acrylic": (110, 135), "bone": (850, 970), "water": (-7, 7)
}  # fmt: skip
_EARL_MEAN = ((0.27, 0.43), (0.44, 0.60), (0.57, 0.73), (0.63, 0.78), (0.72, 0.85), (0.76, 0.89))
_EARL_MAX = ((0.34, 0.57), (0.59, 0.85), (0.73, 1.01), (0.83, 1.09), (0.91, 1.13), (0.95, 1.16))


def _catphan(kind: PhantomKind) -> Iterator[Tolerance]:
    for material in materials_of(kind):
        source = _CATPHAN_BONE if material in _BONE_HU else _CATPHAN_MANUAL
        yield Tolerance(kind, f"phantom_hu_{material}", *(_MATERIALS_HU | _BONE_HU)[material], *source)
    if kind is not PhantomKind.CATPHAN700:
        yield Tolerance(kind, "phantom_line_distance", 49.0, 51.0, *_by_pylinac("scaling_tolerance"))
    yield Tolerance(kind, "phantom_thickness_error", -0.2, 0.2, *_by_pylinac("thickness_tolerance"))
    if kind is not PhantomKind.CATPHAN503:
        yield Tolerance(kind, "phantom_low_contrast_discs", 1.0, None, *_by_pylinac("low_contrast_tolerance"))


def _by_pylinac(name: str) -> tuple[str, str]:
    return _PYLINAC[0].format(name), _PYLINAC[1]


def _others() -> Iterator[Tolerance]:
    for material, bounds in _ACR_MATERIALS_HU.items():
        yield Tolerance(PhantomKind.ACR_CT, f"phantom_hu_{material}", *bounds, *_ACR_HU)
    yield Tolerance(PhantomKind.ACR_CT, "phantom_edge_centre", -5.0, 5.0, *_ACR_UNIFORMITY)
    yield Tolerance(PhantomKind.WATER, "phantom_hu_centre", -5.0, 5.0, *_ACR_WATER)
    yield Tolerance(PhantomKind.UNIFORM_PET, "phantom_suv_mean", 0.9, 1.1, *_EARL_CALIBRATION)
    for size, mean, highest in zip(SPHERES_MM, _EARL_MEAN, _EARL_MAX, strict=True):
        yield Tolerance(PhantomKind.NEMA_IQ_PET, f"phantom_recovery_mean_{size}mm", *mean, *_EARL)
        yield Tolerance(PhantomKind.NEMA_IQ_PET, f"phantom_recovery_max_{size}mm", *highest, *_EARL)


DEFAULT_TOLERANCES = (*(item for kind in _CATPHANS for item in _catphan(kind)), *_others())
