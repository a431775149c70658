"""The one formula of waits between attempts: exponential, bounded, with jitter."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["JITTER", "backoff_s"]

JITTER = 0.25
"""Part of a wait by which it may be shorter or longer, so that what failed together does not come back together."""


def backoff_s(attempt: int, first_s: float, longest_s: float, chance: Callable[[], float] = random.random) -> float:
    """Return the wait in seconds after the ``attempt``-th failed attempt.

    ``first_s * 2 ** (attempt - 1)``, changed by up to `JITTER` to either side and never above ``longest_s``.

    Parameters
    ----------
    attempt
        Counts from 1.
    chance
        Returns a number from 0 to 1: 0.5 for the wait without jitter.

    Examples
    --------
    >>> [backoff_s(attempt, 5.0, 900.0, lambda: 0.5) for attempt in (1, 2, 3)]
    [5.0, 10.0, 20.0]
    >>> backoff_s(5000, 5.0, 900.0, lambda: 1.0)
    900.0
    """
    # Exponents beyond 32 would only overflow: the longest wait is reached long before. It bounds the wait with jitter.
    wait = min(longest_s / (1 + JITTER), first_s * 2.0 ** min(attempt - 1, 32))
    return wait * (1 - JITTER + 2 * JITTER * chance())
