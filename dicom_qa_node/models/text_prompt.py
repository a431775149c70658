"""What a network that takes prompts is told about a picture: four factors of its DICOM header, any of them unknown.

Free of torch: the scorer fills a `Prompt` from the header, the training loop from its table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["FACTORS", "UNKNOWN", "Prompt"]

FACTORS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "dimension": ("2d", "3d"),
        "modality": ("ct", "petct", "pt"),
        "region": ("head", "neck", "chest", "abdomen", "pelvis", "limb", "whole body"),
        "type": ("soft", "sharp", "corrected", "uncorrected"),
    }
)
"""The known values of each factor. ``dimension``: a single picture or a slice of a stack; ``type``: a CT's kernel
(soft or sharp, ConvolutionKernel), whether a PET is corrected for attenuation (CorrectedImage)."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One picture's factors; a value that is not in `FACTORS`, such as "", is unknown."""

    dimension: str = ""
    modality: str = ""
    region: str = ""
    type: str = ""

    def codes(self) -> tuple[int, ...]:
        """Return the index of each factor, 0 for unknown, in the order of `FACTORS`."""
        return tuple(_code(names, getattr(self, factor)) for factor, names in FACTORS.items())


UNKNOWN = Prompt()
"""What is told about a picture without a header."""


def _code(names: tuple[str, ...], value: str) -> int:
    return names.index(value) + 1 if value in names else 0
