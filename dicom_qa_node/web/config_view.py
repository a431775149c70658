"""The configuration as it was loaded, as lines to show: no password, no secret, no part of an address with one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from dicom_qa_node.config import Config

__all__ = ["HIDDEN", "config_lines"]

HIDDEN = "(hidden)"
_SECRET = re.compile(r"password$|secret$|token$|passphrase|client_secret$|api_key|headers?$")
_ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def config_lines(config: Config) -> list[tuple[str, str]]:
    """Return every key with its value as text, in the order of the file."""
    return list(_lines("", config.model_dump(mode="json")))


def _lines(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _lines(f"{path}.{key}" if path else str(key), inner)
    elif isinstance(value, list) and value and not all(isinstance(item, str) for item in value):
        for number, inner in enumerate(value):
            yield from _lines(f"{path}[{number}]", inner)
    else:
        yield path, _shown(path, value)


def _shown(path: str, value: Any) -> str:
    if value not in (None, "", [], {}, False, True) and _SECRET.search(path.rsplit(".", 1)[-1]):
        return HIDDEN
    if isinstance(value, list):
        return ", ".join(_shown("", item) for item in value) or "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or value in ("", {}):
        return "empty"
    text = str(value)
    return _without_secrets(text, webhook=".webhook[" in path) if _ADDRESS.match(text) else text


def _without_secrets(address: str, *, webhook: bool) -> str:
    try:
        parts = urlsplit(address)
        host = parts.netloc.rsplit("@", 1)
    except ValueError:
        return HIDDEN
    place = f"{HIDDEN}@{host[1]}" if len(host) == 2 else host[0]
    if webhook:
        return f"{parts.scheme}://{place}/{HIDDEN}"
    return urlunsplit((parts.scheme, place, parts.path, HIDDEN if parts.query else "", ""))
