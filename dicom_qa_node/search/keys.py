"""The keys of a query, whoever asked and however it was encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Identifier", "Key"]


@dataclass(frozen=True, slots=True)
class Key:
    """One key attribute: decoded values, or the keys of its item for a sequence; none at all for universal matching."""

    tag: int
    keyword: str
    vr: str
    values: tuple[str, ...] = ()
    item: tuple[Key, ...] | None = None


@dataclass(frozen=True, slots=True)
class Identifier:
    """A request's keys; ``unsupported`` tells that some were left out because the node does not know them."""

    level: str
    keys: Mapping[str, Key]
    character_set: tuple[str, ...]
    unsupported: bool

    def values(self, keyword: str) -> tuple[str, ...]:
        """Return the values of a key, none if it is absent or universal."""
        key = self.keys.get(keyword)
        return tuple(value for value in key.values if value and value != "*") if key else ()
