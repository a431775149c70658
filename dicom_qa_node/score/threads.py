"""How many threads each step of a scorer may use (``score.threads``); one number for the whole process."""

from __future__ import annotations

import os

__all__ = ["max_threads", "set_max_threads"]

_MOST = 4
_wanted = 0


def set_max_threads(count: int) -> None:
    """Set the number of threads of each step; 0: one per core that this process may use, four at most."""
    global _wanted
    _wanted = count


def max_threads() -> int:
    """Return the number of threads that a step may use, at least 1."""
    return _wanted or min(len(os.sched_getaffinity(0)), _MOST)
