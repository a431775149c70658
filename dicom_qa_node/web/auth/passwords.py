"""Passwords: argon2id (RFC 9106), equal time for unknown users, and the rules for new passwords."""

from __future__ import annotations

import re
import threading

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError
from zxcvbn import zxcvbn

__all__ = ["Passwords"]

_LANES = 2
_AT_ONCE = 2
_LONGEST = 256
#: Of 0 to 4; 4 takes more than 10^10 guesses (Wheeler, zxcvbn, USENIX Security 2016).
_STRENGTH = 4
#: Characters that zxcvbn looks at.
_ESTIMATED = 72
#: Words that somebody would try here first, in addition to zxcvbn's own lists.
_LOCAL_WORDS = (
    "dicom", "dicom-qa-node", "dicomqanode", "quality", "imaging", "hospital", "klinik", "klinikum", "radiology",
    "radiologie", "radiologist", "technologist", "physicist", "scanner", "tomography", "pacs", "admin", "administrator",
    "reviewer", "viewer", "passwort", "kennwort",
)  # fmt: skip


class Passwords:
    """Makes and checks hashes; at most two at once, so that logins cannot eat the memory of the machine.

    Parameters
    ----------
    memory_mb
        Memory of one hash.
    passes
        Passes over that memory.
    min_length
        Shortest new password, in characters.
    """

    def __init__(self, memory_mb: int, passes: int, min_length: int) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_mb * 1024, parallelism=_LANES, type=Type.ID)
        self._turn = threading.BoundedSemaphore(_AT_ONCE)
        self._min_length = min_length
        self._nobody = self.hash("there is no such account")

    def hash(self, password: str) -> str:
        """Return the hash to keep."""
        with self._turn:
            return self._hasher.hash(password)

    def verify(self, kept: str, password: str) -> bool:
        """Check a password; without a kept hash the check takes as long and fails."""
        with self._turn:
            try:
                right = self._hasher.verify(kept or self._nobody, password[: _LONGEST + 1])
            except (VerificationError, InvalidHashError):
                return False
        return right and bool(kept)

    def outdated(self, kept: str) -> bool:
        """Return whether a hash was made with other parameters."""
        return self._hasher.check_needs_rehash(kept)

    def problem(self, password: str, name: str) -> str:
        """Return what is wrong with a new password, empty if nothing is."""
        if len(password) < self._min_length:
            return f"The password needs at least {self._min_length} characters."
        if len(password) > _LONGEST:
            return f"The password may have {_LONGEST} characters at most."
        found = zxcvbn(password[:_ESTIMATED], user_inputs=[*_LOCAL_WORDS, *_parts(name)])
        if found["score"] >= _STRENGTH:
            return ""
        reason = found["feedback"]["warning"] or "It is easy to guess."
        return f"The password is too weak: {reason.rstrip('.')}. Use more words, less common ones."


def _parts(name: str) -> set[str]:
    """Return a login name and its parts, as passwords are made of them."""
    return {part for part in (name, *re.split(r"[\W_]+", name)) if part}
