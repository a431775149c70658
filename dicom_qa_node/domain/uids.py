"""Numbers of rows; UIDs: validation (PS3.5 9.1), derived UIDs (PS3.5 B.2), file names made from them."""

from __future__ import annotations

import hashlib
import re
import uuid

from dicom_qa_node.domain.errors import Permanent

__all__ = [
    "LARGEST_ID",
    "InvalidUid",
    "check_uid",
    "derived_uid",
    "has_leading_zero",
    "is_uid",
    "is_valid_uid",
    "uid_key",
]

LARGEST_ID = 2**31 - 1
"""The largest number of a row (INTEGER on both databases); a larger one in an address names nothing."""

_NAMESPACE = uuid.UUID("6f1d9a52-58c7-5d0e-9f0b-1f1f6c0b5a10")


def derived_uid(*parts: str) -> str:
    """Return a UID that is always the same for the same parts (PS3.5 B.2, UUID-derived root 2.25)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '|'.join(parts)).int}"


_UID = re.compile(r"[0-9]+(?:\.[0-9]+)+")
_LEADING_ZERO = re.compile(r"(?:^|\.)0[0-9]")
_UID_LENGTH = 64
_KEY_LENGTH = 32


class InvalidUid(Permanent):
    """A UID is not digits and dots of at most 64 characters (PS3.5 chapter 9)."""


def is_uid(text: str) -> bool:
    """Return whether ``text`` can name an object: digits and dots, at most 64 characters.

    PS3.5 9.1 forbids leading zeros in a component; devices that write them exist, and archives store their images.
    """
    return len(text) <= _UID_LENGTH and _UID.fullmatch(text) is not None


def has_leading_zero(uid: str) -> bool:
    """Return whether a component of a UID begins with a zero that PS3.5 9.1 forbids."""
    return _LEADING_ZERO.search(uid) is not None


def is_valid_uid(text: str) -> bool:
    """Return whether ``text`` keeps every rule of PS3.5 9.1: what the node makes or copies does."""
    return is_uid(text) and not has_leading_zero(text)


def check_uid(text: str, name: str) -> str:
    """Return ``text`` unchanged if it is a UID; ``name`` says which one in the `InvalidUid` that is raised if not."""
    if not is_uid(text):
        raise InvalidUid(f"{name} is not a valid UID")
    return text


def uid_key(uid: str) -> str:
    """Return the file name stem that stands for ``uid`` (32 lower-case hex digits)."""
    return hashlib.sha256(uid.encode("ascii")).hexdigest()[:_KEY_LENGTH]
