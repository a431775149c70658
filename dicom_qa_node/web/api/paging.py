"""Paging of the API: ``?limit=&cursor=``, and ``{"items": […], "next": cursor or null}`` as the answer.

A cursor is opaque: the place behind the last item, so that a page is as fast at the end as at the beginning.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated, Generic, TypeVar

from fastapi import HTTPException, Query
from pydantic import BaseModel, Field

__all__ = ["Cursor", "Limit", "PageOf", "decode_cursor", "encode_cursor"]

Item = TypeVar("Item")
Limit = Annotated[int, Query(ge=1, le=1000, description="items at most")]
Cursor = Annotated[str | None, Query(max_length=1000, description="`next` of the page before")]


class PageOf(BaseModel, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next: str | None = Field(None, description="cursor of the next page; null at the end")


def encode_cursor(*place: str | int | float | None) -> str:
    """Return a cursor for the place behind the last item."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None, *kinds: type) -> tuple[object, ...] | None:
    """Return the place of a cursor, None for the first page.

    Raises
    ------
    HTTPException
        422: it is none of ours; ``kinds`` are the types of its parts.
    """
    if cursor is None:
        return None
    try:
        place = json.loads(base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise HTTPException(422, "cursor: not one of this API") from error
    right = isinstance(place, list) and len(place) == len(kinds)
    if not right or any(type(part) is not kind for part, kind in zip(place, kinds, strict=False)):
        raise HTTPException(422, "cursor: not one of this list")
    return tuple(place)
