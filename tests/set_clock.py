"""A host whose wall clock is set while its steady clock goes on."""

from __future__ import annotations

import datetime as dt

__all__ = ["HOUR_S", "JUMPS", "YEAR_S", "Host"]

HOUR_S, YEAR_S = 3600.0, 365 * 86400.0
#: By how many seconds clocks are set in the tests.
JUMPS = (HOUR_S, -HOUR_S, YEAR_S, -YEAR_S)


class Host:
    """Two clocks: `pass_` moves both, `set_clock` the wall clock alone."""

    def __init__(self) -> None:
        self._begun = dt.datetime(2026, 1, 5, 8, 0, tzinfo=dt.UTC)
        self._steady_s, self._set_by_s = 1000.0, 0.0

    def pass_(self, seconds: float) -> None:
        self._steady_s += seconds

    def set_clock(self, by_s: float) -> None:
        self._set_by_s += by_s

    def steady(self) -> float:
        return self._steady_s

    def __call__(self) -> dt.datetime:
        return self._begun + dt.timedelta(seconds=self._steady_s + self._set_by_s)
