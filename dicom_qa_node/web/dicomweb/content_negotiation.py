"""Reads the Accept header of a DICOMweb request (PS3.18 8.7, RFC 9110 12.5.1) and chooses what to answer with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pydicom.uid import ExplicitVRLittleEndian
from starlette.exceptions import HTTPException

from dicom_qa_node.domain.uids import is_uid

__all__ = ["DICOM", "JSON", "MULTIPART", "Wanted", "json_accepted", "wanted_form"]

DICOM = "application/dicom"
JSON = "application/dicom+json"
MULTIPART = "multipart/related"
ANY_SYNTAX = "*"

_JSON_RANGES = (JSON, "application/json", "application/*", "*/*")
_LONGEST = 4096
_PARAMETER = re.compile(r';\s*([!#$%&\'*+.^_`|~\w-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;,"]*)\s*')
_RANGE = re.compile(r"\s*([!#$%&'*+.^_`|~\w-]+/[!#$%&'*+.^_`|~\w-]+)\s*")


@dataclass(frozen=True, slots=True)
class Wanted:
    """How instances are to be sent: a single one or several parts, and in which transfer syntaxes.

    ``syntaxes`` is empty where any will do.
    """

    multipart: bool
    syntaxes: tuple[str, ...]

    def takes(self, transfer_syntax_uid: str) -> bool:
        """Return whether an instance may go out as it is stored."""
        return not self.syntaxes or transfer_syntax_uid in self.syntaxes


@dataclass(frozen=True, slots=True)
class _Range:
    media: str
    parameters: Mapping[str, str]
    quality: float


def json_accepted(accept: str) -> None:
    """Check that DICOM JSON may be answered.

    Raises
    ------
    HTTPException
        406 it may not; 400 the header cannot be read.
    """
    if not any(item.media in _JSON_RANGES for item in _ranges(accept)):
        raise HTTPException(406, f"Only {JSON} can be answered here; the Accept header does not allow it.")


def wanted_form(accept: str, *, single: bool) -> Wanted:
    """Return how a client wants instances; ``single`` tells that there is one only.

    Raises
    ------
    HTTPException
        406 nothing of it can be answered; 400 the header cannot be read.
    """
    syntaxes: dict[bool, list[str]] = {}
    for item in _ranges(accept):
        multipart = item.media in (MULTIPART, "multipart/*", "*/*")
        kind = item.parameters.get("type", DICOM).lower() if multipart else item.media
        if kind not in (DICOM, "application/*") or not (multipart or single):
            continue
        syntaxes.setdefault(multipart, []).append(_syntax(item))
    if not syntaxes:
        raise HTTPException(
            406, f'Only {MULTIPART}; type="{DICOM}" can be answered here; the Accept header does not allow it.'
        )
    multipart, found = next(iter(syntaxes.items()))
    return Wanted(multipart, () if ANY_SYNTAX in found else tuple(dict.fromkeys(found)))


def _syntax(item: _Range) -> str:
    found = item.parameters.get("transfer-syntax")
    if found is None:
        # PS3.18 8.7.3.3: Explicit VR Little Endian unless another is asked for. Whoever takes anything takes any.
        return ANY_SYNTAX if item.media == "*/*" else str(ExplicitVRLittleEndian)
    if found != ANY_SYNTAX and not is_uid(found):
        raise HTTPException(400, "The transfer-syntax of the Accept header is not a UID.")
    return found


def _ranges(accept: str) -> Iterable[_Range]:
    found = [item for item in _read(accept or "*/*") if item.quality > 0]
    return sorted(found, key=lambda item: -item.quality)


def _read(text: str) -> Iterator[_Range]:
    if len(text) > _LONGEST:
        raise HTTPException(400, "The Accept header is too long.")
    position = 0
    while position < len(text):
        match = _RANGE.match(text, position)
        if match is None:
            raise HTTPException(400, "The Accept header cannot be read.")
        parameters, position = _parameters(text, match.end())
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            raise HTTPException(400, "Invalid q value in the Accept header.") from None
        yield _Range(match[1].lower(), parameters, quality)
        if position < len(text):
            if text[position] != ",":
                raise HTTPException(400, "The Accept header cannot be read.")
            position += 1


def _parameters(text: str, position: int) -> tuple[dict[str, str], int]:
    found: dict[str, str] = {}
    while match := _PARAMETER.match(text, position):
        value = match[2]
        found[match[1].lower()] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
        position = match.end()
    return found, position
