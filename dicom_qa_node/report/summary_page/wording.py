"""The words of the companion in the configured language, from the table ``words.yaml`` beside this module."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import yaml

__all__ = ["LANGUAGES", "Words"]

LANGUAGES = ("en", "de", "fr", "es")
_COMMA = ("de", "fr", "es")


class Words:
    """Looks words up; ``language`` is one of `LANGUAGES`."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._column = LANGUAGES.index(language)

    def __call__(self, key: str, *values: object) -> str:
        """Return a word of the page, with values in the places of its braces."""
        return self._found("page", key, key).format(*values)

    def of(self, section: str, key: str, otherwise: str) -> str:
        """Return a word of another section, ``otherwise`` (English) where the table lacks it."""
        return self._found(section, key, otherwise)

    def number(self, value: float, decimals: int | None = None) -> str:
        """Return a number with three significant digits, or with so many decimals, and the language's decimal mark."""
        if decimals is None:
            decimals = max(2 - math.floor(math.log10(abs(value))), 0) if value else 0
            text = f"{value:.{min(decimals, 9)}f}"
            text = text.rstrip("0").rstrip(".") if "." in text else text
        else:
            text = f"{value:.{decimals}f}"
        return text.replace(".", ",") if self.language in _COMMA else text

    def _found(self, section: str, key: str, otherwise: str) -> str:
        row = _table()[section].get(key)
        return otherwise if row is None else str(row[self._column])


@cache
def _table() -> Mapping[str, Mapping[str, list[str]]]:
    text = resources.files("dicom_qa_node.report").joinpath("words.yaml").read_text("utf-8")
    table: dict[str, Any] = yaml.safe_load(text)
    if tuple(table.pop("languages")) != LANGUAGES:
        raise ValueError("words.yaml has other languages than the node")
    return table
