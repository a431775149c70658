"""Size-specific dose estimates: CTDIvol times a factor of patient size (AAPM Reports 204, 220 and 293)."""

from __future__ import annotations

import math

__all__ = ["size_factor", "size_range_cm", "size_specific_dose"]


def size_factor(diameter_cm: float, phantom_cm: int, head: bool) -> float:
    """Conversion factor from CTDIvol to the size-specific dose estimate.

    ``a exp(-b Dw)``: AAPM Report 204 (2011) for the 32 cm phantom (a = 3.704369, b = 0.03671937 / cm) and the 16 cm
    phantom (1.874799, 0.03871313); for heads AAPM Report 293 (2019), 16 cm phantom (1.9852, 0.0486). The fits hold
    from 8 to 45 cm (heads 11 to 20 cm).
    """
    if phantom_cm == 32:
        a, b = 3.704369, 0.03671937
    else:
        a, b = (1.9852, 0.0486) if head else (1.874799, 0.03871313)
    return a * math.exp(-b * diameter_cm)


def size_range_cm(phantom_cm: int, head: bool) -> tuple[float, float]:
    """Return the diameters between which `size_factor` holds."""
    return (11.0, 20.0) if head and phantom_cm == 16 else (8.0, 45.0)


def size_specific_dose(
    ctdi_vol_mgy: float | None, diameter_mm: float | None, phantom_cm: int | None, head: bool
) -> float | None:
    """Return the estimate in mGy; None where something is missing or the size lies outside the tables.

    Parameters
    ----------
    phantom_cm
        Of the CTDIvol; None is taken for 16 cm for a head, 32 cm otherwise.
    """
    if ctdi_vol_mgy is None or diameter_mm is None:
        return None
    phantom = phantom_cm or (16 if head else 32)
    low, high = size_range_cm(phantom, head)
    diameter_cm = diameter_mm / 10.0
    return ctdi_vol_mgy * size_factor(diameter_cm, phantom, head) if low <= diameter_cm <= high else None
