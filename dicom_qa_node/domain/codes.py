"""Coded concepts (PS3.3 8.8)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PRIVATE_SCHEME", "Code", "private_code"]

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
