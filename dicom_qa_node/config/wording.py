"""Says in words what a configuration key may hold; the same words in error lines, config.yaml and the documentation."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as at
from pydantic import BaseModel
from pydantic.fields import FieldInfo

__all__ = ["allowed", "sections_of"]

_WORDS = {int: "whole number", float: "number", str: "text", Path: "path"}


def allowed(field: FieldInfo) -> str:
    """Return what a key may hold, such as ``whole number, 1 to 65535``.

    A key whose values follow a pattern says so itself in ``json_schema_extra["allowed"]``.
    """
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "allowed" in extra:
        return str(extra["allowed"])
    return _of_type(field.annotation) + _bounds(field.metadata)


def sections_of(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections that an annotation holds: one for a section, several for a list of alternatives."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in sections_of(argument)]


def _of_type(annotation: Any) -> str:
    if annotation is bool:
        return "true or false"
    if get_origin(annotation) is Annotated:
        return _of_annotated(*get_args(annotation))
    if get_origin(annotation) is Literal:
        choices = [str(choice) for choice in get_args(annotation)]
        return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"
    if get_origin(annotation) in (Union, types.UnionType):
        words = [_of_type(part) for part in get_args(annotation) if part is not type(None)]
        return " or ".join([*words, "empty"])
    if get_origin(annotation) is list:
        return "list of sections" if sections_of(annotation) else f"list of {_of_type(get_args(annotation)[0])}"
    if sections_of(annotation):
        return "section"
    return _WORDS.get(annotation, str(annotation))


def _of_annotated(annotation: Any, *notes: Any) -> str:
    return next((allowed(note) for note in notes if isinstance(note, FieldInfo)), _of_type(annotation))


def _bounds(metadata: list[Any]) -> str:
    low = next((f"{m.ge:g}" for m in metadata if isinstance(m, at.Ge)), "")
    low = next((f"above {m.gt:g}" for m in metadata if isinstance(m, at.Gt)), low)
    high = next((f"{m.le:g}" for m in metadata if isinstance(m, at.Le)), "")
    if low and high:
        return f", {low} to {_whole(metadata, high)}"
    if low:
        return f", {low}" if low.startswith("above") else f", {low} or more"
    return _length(metadata)


def _whole(metadata: list[Any], text: str) -> str:
    # "{:g}" shortens large whole numbers to an exponent.
    exact = next(m.le for m in metadata if isinstance(m, at.Le))
    return str(exact) if "e" in text else text


def _length(metadata: list[Any]) -> str:
    low = next((m.min_length for m in metadata if isinstance(m, at.MinLen)), 0)
    high = next((m.max_length for m in metadata if isinstance(m, at.MaxLen)), None)
    if high is not None:
        return f", {low} to {high} characters"
    return ", not empty" if low else ""
