"""Reads what a DICOMweb service answers to a STOW-RS request (PS3.18 10.5.3, PS3.3 C.12.1.1 failure reasons)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dicom_qa_node.deliver.targets.base import Answer, Deferred, Refused
from dicom_qa_node.domain.delivery import ReportRef

__all__ = ["NotUnderstood", "response_outcome"]

_REFERENCED, _FAILED, _OTHER_FAILURES = "00081199", "00081198", "0008119A"
_INSTANCE, _REASON, _WARNING = "00081155", "00081197", "00081196"
_DUPLICATE, _CLASS_NOT_SUPPORTED = 0x0111, 0x0122
_WORDS = {
    0x0106: "Invalid attribute value",
    0x0110: "Processing failure",
    0x0111: "Duplicate SOP instance",
    0x0112: "No such object instance",
    0x0117: "Invalid object instance",
    0x0122: "SOP class not supported",
    0x0124: "Refused, not authorized",
    0x0131: "Duplicate transaction",
    0x0213: "Resource limitation",
}
_NOT_NOW = frozenset({0x0110, 0x0213})


class NotUnderstood(Exception):
    """The answer is not a Store Instances Response Module (PS3.18 table I.2-1), or does not name the report."""


def response_outcome(status: int, content: bytes, form: ReportRef) -> Answer | None:
    """Return the acceptance of a report, None if its SOP class is not supported.

    Parameters
    ----------
    status
        200 (all stored), 202 (stored, or stored in part, with remarks) or 409 (nothing stored).
    content
        The answer's body, DICOM JSON.

    Raises
    ------
    Refused, Deferred
        The service gives the reason for which it did not store the report.
    NotUnderstood
        It cannot be seen whether the service has it.
    """
    if status == 200 and not content.strip():
        return Answer("HTTP 200, stored")
    module = _module(content)
    uid = form.sop_instance_uid
    for item in _items(module, _FAILED):
        if _text(item, _INSTANCE) == uid:
            return _failed(status, _number(item, _REASON))
    for item in _items(module, _REFERENCED):
        if _text(item, _INSTANCE) == uid and status != 409:
            warning = _number(item, _WARNING)
            return Answer(f"HTTP {status}, stored" + ("" if warning is None else f" with warning 0x{warning:04X}"))
    for item in _items(module, _OTHER_FAILURES):
        return _failed(status, _number(item, _REASON))
    raise NotUnderstood("it does not name the report")


def _failed(status: int, reason: int | None) -> Answer | None:
    if reason is None:
        raise Refused(f"HTTP {status}: not stored, no reason given")
    if reason == _DUPLICATE:
        return Answer(f"HTTP {status}, 0x0111 duplicate SOP instance: the target has it")
    if reason == _CLASS_NOT_SUPPORTED:
        return None
    words = f"HTTP {status}: 0x{reason:04X} {_meaning(reason)}"
    if reason in _NOT_NOW or 0xA700 <= reason <= 0xA7FF:
        raise Deferred(words)
    raise Refused(words)


def _meaning(reason: int) -> str:
    if 0xA700 <= reason <= 0xA7FF:
        return "Out of resources"
    if 0xA900 <= reason <= 0xA9FF:
        return "Data set does not match SOP class"
    return _WORDS.get(reason, "Cannot understand" if 0xC000 <= reason <= 0xCFFF else "Failure")


def _module(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise NotUnderstood("it is not DICOM JSON") from error
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, dict):
        raise NotUnderstood("it is not a data set")
    return found


def _items(module: dict[str, Any], tag: str) -> Iterator[dict[str, Any]]:
    for item in _values(module, tag):
        if isinstance(item, dict):
            yield item


def _values(item: dict[str, Any], tag: str) -> list[Any]:
    element = item.get(tag)
    value = element.get("Value") if isinstance(element, dict) else None
    return value if isinstance(value, list) else []


def _text(item: dict[str, Any], tag: str) -> str:
    values = _values(item, tag)
    return values[0].strip(" \0") if values and isinstance(values[0], str) else ""


def _number(item: dict[str, Any], tag: str) -> int | None:
    values = _values(item, tag)
    try:
        return int(values[0]) & 0xFFFF if values else None
    except (TypeError, ValueError):
        return None
