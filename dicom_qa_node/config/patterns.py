"""Shell patterns in lists of the configuration, compared alike wherever a rule has some."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

__all__ = ["SHELL", "any_matches", "checked_patterns"]

SHELL = "shell patterns: *, ?, [abc]"


def checked_patterns(patterns: list[str]) -> list[str]:
    """Return the patterns; one that never matches is refused with ValueError."""
    for pattern in patterns:
        if pattern.count("[") > pattern.count("]"):
            raise ValueError(f"{pattern!r} has a [ that is not closed")
        if not pattern or pattern != pattern.strip():
            raise ValueError(f"{pattern!r} is empty, or begins or ends with a space: it never matches")
    return patterns


def any_matches(found: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether one of the values fits one of the patterns, upper and lower case apart."""
    return any(fnmatchcase(value, pattern) for value in found for pattern in patterns)
