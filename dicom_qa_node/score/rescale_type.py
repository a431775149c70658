"""What the values of a CT are after the rescale, by Rescale Type (0028,1054) as vendors and converters spell it."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["HU", "by_the_image", "ct_unit"]

HU = "HU"

_SPELLING = re.compile(r"HUS?|HOUN\w*FIELD\w*|HNSFU|CTNUMBERS?")
"""Seen: HU, hu, H.U., Hounsfield Units, Houndsfield Unit, [hnsf'U]."""

_UNSPECIFIED = frozenset({"US", "UNSPECIFIED", "NORMALIZED"})


def ct_unit(rescale_type: str) -> str:
    """Return "HU" for every spelling of Hounsfield units and for none at all, else the type as it stands.

    PS3.3 C.11.1.1.2: without Rescale Type the output of the rescale is HU for an original CT.
    """
    word = _word(rescale_type)
    return HU if not word or _SPELLING.fullmatch(word) else rescale_type


def by_the_image(rescale_type: str, image_type: Sequence[str]) -> bool:
    """Return whether the images must show that the values are HU: an original CT whose type is unspecified (US)."""
    return _word(rescale_type) in _UNSPECIFIED and "ORIGINAL" in [value.upper() for value in image_type]


def _word(text: str) -> str:
    return "".join(char for char in text.upper() if char.isalpha())
