"""The configuration as it was loaded, as lines to show, without secrets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dicom_qa_node.config import Config
from dicom_qa_node.config.redaction import HIDDEN, redacted

__all__ = ["HIDDEN", "config_lines"]


def config_lines(config: Config) -> list[tuple[str, str]]:
    """Return every key with its value as text, in the order of the file."""
    return list(_lines("", redacted(config)))


def _lines(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _lines(f"{path}.{key}" if path else str(key), inner)
    elif isinstance(value, list) and value and not all(isinstance(item, str) for item in value):
        for number, inner in enumerate(value):
            yield from _lines(f"{path}[{number}]", inner)
    else:
        yield path, _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "empty" if value is None or value in ("", {}) else str(value)
