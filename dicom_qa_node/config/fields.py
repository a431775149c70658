"""Field types, strictness and shell patterns that the sections of the configuration share."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["SHELL", "AeTitle", "ListenPort", "Name", "Port", "Section", "Site", "any_matches", "checked_patterns"]

AeTitle = Annotated[
    str,
    Field(
        pattern=r"^ *[!-\[\]-~][ -\[\]-~]*$",
        max_length=16,
        json_schema_extra={"allowed": "1 to 16 printable ASCII characters, no backslash"},
    ),
]

Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        json_schema_extra={"allowed": "1 to 64 letters, digits, dots, dashes or underscores"},
    ),
]


# PostgreSQL announces jobs under names of 63 characters at most, of which this is a part.
Site = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$",
        json_schema_extra={"allowed": "1 to 32 letters, digits, dots, dashes or underscores"},
    ),
]

Port = Annotated[int, Field(ge=1, le=65535)]

ListenPort = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """A part of the configuration; unknown keys and silent type changes are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


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
