"""Coded concepts (PS3.3 8.8)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "COMMENT",
    "IMAGE_SET_QUALITY_RATING",
    "IMAGING_MEASUREMENTS",
    "MEASUREMENT_GROUP",
    "PRIVATE_SCHEME",
    "QUALITY_ASSESSMENT",
    "Code",
    "private_code",
]

PRIVATE_SCHEME = "99DQAN"
"""Designator of the node's own codes (PS3.16 8.2: 99 marks a private scheme), listed in docs/measurements.md."""


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept (PS3.3 8.8): value, scheme designator, meaning."""

    value: str
    scheme: str
    meaning: str


def private_code(value: str, meaning: str) -> Code:
    """Return a code of the node's own scheme, for what PS3.16 has no code."""
    return Code(value, PRIVATE_SCHEME, meaning)


# What a report is read by, also outside this node (PS3.16 annex D).
IMAGING_MEASUREMENTS = Code("126010", "DCM", "Imaging Measurements")
MEASUREMENT_GROUP = Code("125007", "DCM", "Measurement Group")
COMMENT = Code("121106", "DCM", "Comment")
QUALITY_ASSESSMENT = Code("111050", "DCM", "Quality Assessment")
IMAGE_SET_QUALITY_RATING = Code("111694", "DCM", "Image Set Quality Rating")
"""The score from 0 to 4: "higher numbers indicate greater quality", on any scale."""
