"""Absolute scores for noise and resolution of a PET: where published limits lie on the scale from 0 to 4.

Noise. A liver COV of 10 % (SNR 10, Fukukita et al. 2014) scores 3.5 and the 15 % that EANM and EARL accept (Koopman et
al. 2016) score 2.5, where "diagnostic" ends; this fixes the slope, 1.71 for each doubling of the noise. Less noise than
that approaches 4. Without a liver the noise of the body takes its place, against 12 % in a trunk and 25 % in a limb:
convention, set on generated trunks of known liver noise and on the legs of five clinical FDG-PET/CT of one scanner
model.

Resolution. EARL1 accepts a recovery of 27 to 43 % in a sphere of 10 mm, a width of 8.3 to 10.3 mm. Up to 9.7 mm nothing
is lost; beyond the lower limit the score falls by some 1.2 for each millimetre: a clinical PET after a filter of 8 mm
reads 11 to 15 mm.

A filter lowers noise without adding information: for noise wider than 9 mm the COV counts as that which the same data
would have at 9 mm, ``COV (w / 9)^1.5``, the law of Gaussian-filtered white noise in three dimensions.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = [
    "BODY_REFERENCE_LIMB",
    "BODY_REFERENCE_TRUNK",
    "LIVER_REFERENCE",
    "at_equal_width",
    "body_reference",
    "noise_score",
    "recovery",
    "resolution_score",
]

LIVER_REFERENCE = 0.10
BODY_REFERENCE_TRUNK = 0.12
BODY_REFERENCE_LIMB = 0.25

_AT_REFERENCE = 3.5
_BEST = 4.0
_SLOPE = 1.0 / math.log2(1.5)
# the power that meets the logarithm at the reference with the same slope
_APPROACH = _SLOPE / (math.log(2.0) * (_BEST - _AT_REFERENCE))
_LIMB_MM, _TRUNK_MM = 90.0, 110.0
_REFERENCE_WIDTH_MM = 9.0
_FILTER_POWER = 1.5
_SPHERE_RADIUS_MM = 5.0
_WIDTHS_MM = (9.7, 10.35, 11.0, 12.0, 14.0, 20.0, 30.0)
_SCORES = (4.0, 3.5, 2.7, 1.9, 1.3, 0.5, 0.0)


def noise_score(cov: float, reference: float) -> float:
    """Score of a relative noise (1 = 100 %): 3.5 at the reference, 1.71 less for each doubling, 0 to 4."""
    if cov <= reference:
        return _BEST - (_BEST - _AT_REFERENCE) * math.pow(max(cov, 0.0) / reference, _APPROACH)
    return max(_AT_REFERENCE - _SLOPE * math.log2(cov / reference), 0.0)


def body_reference(half_depth_mm: float) -> float:
    """Noise of the body that scores 3.5, by the half depth of the body: limbs to 90 mm, trunks from 110 mm."""
    share = min(max((half_depth_mm - _LIMB_MM) / (_TRUNK_MM - _LIMB_MM), 0.0), 1.0)
    return float(BODY_REFERENCE_LIMB * (BODY_REFERENCE_TRUNK / BODY_REFERENCE_LIMB) ** share)


def at_equal_width(cov: float, width_mm: float | None) -> float:
    """Relative noise that the same data would have at a width of 9 mm; narrower noise is left as it is."""
    if width_mm is None or width_mm <= _REFERENCE_WIDTH_MM:
        return cov
    return cov * math.pow(width_mm / _REFERENCE_WIDTH_MM, _FILTER_POWER)


def resolution_score(width_mm: float) -> float:
    """Score of a width (FWHM): 4 to 9.7 mm, 2.5 at 11.2 mm, 1.3 at 14 mm."""
    return float(np.interp(width_mm, _WIDTHS_MM, _SCORES))


def recovery(width_mm: float) -> float:
    """Share of its contrast that the centre of a sphere of 10 mm keeps after a Gaussian of this FWHM in 3-D."""
    if width_mm <= 0:
        return 1.0
    t = _SPHERE_RADIUS_MM / (width_mm / 2.3548)
    return math.erf(t / math.sqrt(2)) - math.sqrt(2 / math.pi) * t * math.exp(-t * t / 2)
