"""UIDs: validation (PS3.5 9.1), derived UIDs (PS3.5 B.2), and file names made from them."""

from __future__ import annotations

import hashlib
import re
import uuid

from dicom_qa_node.domain.errors import Permanent

__all__ = ["InvalidUid", "check_uid", "derived_uid", "is_uid", "uid_key"]

_NAMESPACE = uuid.UUID("6f1d9a52-58c7-5d0e-9f0b-1f1f6c0b5a10")


def derived_uid(*parts: str) -> str:
    """Return a UID that is always the same for the same parts (PS3.5 B.2, UUID-derived root 2.25)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '|'.join(parts)).int}"


_UID = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+")
_UID_LENGTH = 64
_KEY_LENGTH = 32


class InvalidUid(Permanent):
    """A UID breaks the rules of PS3.5 chapter 9: digits and dots, no leading zeros, at most 64 characters."""


def is_uid(text: str) -> bool:
    """Return whether ``text`` is a UID after PS3.5 9.1."""
    return len(text) <= _UID_LENGTH and _UID.fullmatch(text) is not None


def check_uid(text: str, name: str) -> str:
    """Return ``text`` unchanged if it is a UID; ``name`` says which one in the `InvalidUid` that is raised if not."""
    if not is_uid(text):
        raise InvalidUid(f"{name} is not a valid UID")
    return text


def uid_key(uid: str) -> str:
    """Return the file name stem that stands for ``uid`` (32 lower-case hex digits)."""
    return hashlib.sha256(uid.encode("ascii")).hexdigest()[:_KEY_LENGTH]
