"""Units of PET values: defined terms of Units (0054,1001), UCUM codes of real world values, and vendors' spellings."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["PetUnit", "pet_unit"]


@dataclass(frozen=True, slots=True)
class PetUnit:
    """A unit as single-frame PET names it (PS3.3 C.8.9.1.1.3).

    ``units`` is a defined term of Units (0054,1001), ``suv_type`` one of SUV Type (0054,1006), "" where the unit does
    not name it; a value times ``factor`` is in ``units``.
    """

    units: str
    suv_type: str = ""
    factor: float = 1.0


_ACTIVITY = {
    "BQ/ML": 1.0, "KBQ/ML": 1e3, "MBQ/ML": 1e6, "BQ/CC": 1.0, "KBQ/CC": 1e3, "BQ/CM3": 1.0, "KBQ/CM3": 1e3, "BQML": 1.0,
    "KBQML": 1e3, "MBQML": 1e6, "BQ/L": 1e-3, "KBQ/L": 1.0, "MBQ/L": 1e3, "NCI/ML": 37.0, "UCI/ML": 37e3,
}  # fmt: skip
_SUV_TYPES = {
    "": "", "SUV": "", "SUVBW": "BW", "SUVLBM": "LBM", "SUL": "LBM", "SUVLBM(JAMES)": "LBM",
    "SUVLBM(JAMES128)": "LBMJAMES128", "SUVLBM(JANMA)": "LBMJANMA", "SUVBSA": "BSA", "SUVIBW": "IBW",
}  # fmt: skip
_COUNTS = {"CNTS", "COUNTS", "{COUNTS}", "COUNT"}
_PER_GRAM = {"", "1", "G/ML", "GML", "G/CC", "G/CM3"}
_PER_AREA = {"CM2/ML", "CM2ML", "CM2/CC"}


def pet_unit(text: str) -> PetUnit | None:
    """Return the unit that a text names, None where it is none that SUV can be computed from.

    >>> pet_unit("{SUVlbm}g/ml")
    PetUnit(units='GML', suv_type='LBM', factor=1.0)
    >>> pet_unit("kBq/ml")
    PetUnit(units='BQML', suv_type='', factor=1000.0)
    """
    plain = re.sub(r"\s|\^|\*", "", text.upper().replace("µ", "U"))
    if plain in _ACTIVITY:
        return PetUnit("BQML", factor=_ACTIVITY[plain])
    if plain in _COUNTS:
        return PetUnit("CNTS")
    annotation = re.search(r"\{([^{}]*)\}", plain)
    named = annotation[1] if annotation else ""
    base = re.sub(r"\{[^{}]*\}", "", plain)
    if base in _SUV_TYPES and base and not named:
        named, base = base, ""
    if named not in _SUV_TYPES or not (base or named):
        return None
    if base in _PER_AREA and named in ("", "SUVBSA"):
        return PetUnit("CM2ML", "BSA")
    if base in _PER_GRAM and named == "SUVBSA":
        return PetUnit("CM2ML", "BSA")
    return PetUnit("GML", _SUV_TYPES[named]) if base in _PER_GRAM else None
