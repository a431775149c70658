"""Tables and columns of dose reports and reference levels."""

from __future__ import annotations

__all__ = ["create", "drop"]


def create() -> None:
    """Create the tables, columns and indexes."""


def drop() -> None:
    """Take back what ``create`` made, in reverse order."""
