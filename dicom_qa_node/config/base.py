"""What the sections of the configuration share: strictness and the names of the field."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["AeTitle", "ListenPort", "Name", "Port", "Section", "Site"]

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
