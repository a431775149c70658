"""UCUM units as people write them."""

from __future__ import annotations

__all__ = ["unit_text"]

_TEXT = {"1": "", "{ratio}": "", "[hnsf'U]": "HU", "/mm": "1/mm", "/cm": "1/cm", "mA.s": "mAs", "mGy.cm": "mGy·cm"}


def unit_text(ucum: str) -> str:
    """Return a UCUM unit in plain text, "" for none.

    Examples
    --------
    >>> [unit_text(unit) for unit in ("[hnsf'U]", "g/ml{SUVbw}", "1")]
    ['HU', 'g/ml', '']
    """
    return _TEXT.get(ucum, ucum.partition("{")[0] or ucum.strip("{}"))
