"""Passwords: argon2id (RFC 9106), the same time for users that do not exist, and what a new password must be."""

from __future__ import annotations

import threading
from itertools import pairwise

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from dicom_qa_node.web.auth.weak_passwords import WEAK

__all__ = ["Passwords"]

_LANES = 2
_AT_ONCE = 2
_LONGEST = 256


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
        folded = password.casefold()
        if len(password) < self._min_length:
            return f"The password needs at least {self._min_length} characters."
        if len(password) > _LONGEST:
            return f"The password may have {_LONGEST} characters at most."
        if len(set(folded)) < 5:
            return "The password repeats too few characters."
        if name and name.casefold() in folded and len(folded) - len(name) < self._min_length // 2:
            return "The password is little more than the login name."
        if folded in WEAK or folded.rstrip("0123456789!.?") in WEAK or _is_a_run(folded):
            return "The password is one that everybody tries first."
        return ""


def _is_a_run(text: str) -> bool:
    steps = {ord(after) - ord(before) for before, after in pairwise(text)}
    return len(steps) == 1
