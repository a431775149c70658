"""The configuration as values that may be shown: no password, no secret, no part of an address that holds one."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from dicom_qa_node.config.loader import Config

__all__ = ["HIDDEN", "redacted", "redacted_address"]

HIDDEN = "(hidden)"
_SECRET = re.compile(r"password$|secret$|token$|passphrase|client_secret$|api_key|headers?$")
_ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def redacted(config: Config) -> dict[str, Any]:
    """Return every key with its value as JSON values, in the order of the schema."""
    values = config.model_dump(mode="json")
    return {key: _redacted(key, value) for key, value in values.items()}


def redacted_address(address: str, *, whole_path: bool = False) -> str:
    """Return an address without user, password and query; with ``whole_path`` without its path too."""
    try:
        parts = urlsplit(address)
        host = parts.netloc.rsplit("@", 1)
    except ValueError:
        return HIDDEN
    place = f"{_without_password(host[0])}@{host[1]}" if len(host) == 2 else host[0]
    if whole_path:
        return f"{parts.scheme}://{place}/{HIDDEN}"
    query = f"?{HIDDEN}" if parts.query else ""
    return f"{parts.scheme}://{place}{parts.path}{query}"


def _without_password(credentials: str) -> str:
    user, colon, _ = credentials.partition(":")
    return f"{user}:{HIDDEN}" if colon else user


def _redacted(path: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _redacted(f"{path}.{key}", inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_redacted(f"{path}[{number}]", inner) for number, inner in enumerate(value)]
    if not isinstance(value, str) or not value:
        return value
    if _SECRET.search(path.rsplit(".", 1)[-1]):
        return HIDDEN
    # The path of a chat service's address is its secret.
    return redacted_address(value, whole_path=".webhook[" in path) if _ADDRESS.match(value) else value
