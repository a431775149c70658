"""How long ago the images of a series came, told by a clock that nobody sets: the sweep asks, the rules judge.

The stamps of a series are wall-clock times. When the wall clock is set, every one of them is suddenly older or younger
than it is: an hour forwards would cut a series that is still arriving, an hour back would leave it waiting.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from dicom_qa_node.records import SeriesProgress

__all__ = ["Ages"]

# The count stands beside the stamp: the registry keeps the latest stamp, also when images come with an earlier one.
_Stamp = tuple[dt.datetime, int]


class Ages:
    """Remembers since when each stamp is known.

    The wall clock says how old a stamp is at the first look only, of the process or after it changed. A stamp in the
    future counts as new, and one that was not there at the look before is no older than that look.

    Parameters
    ----------
    steady
        Returns seconds that only ever go forward.
    """

    def __init__(self, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        self._looked: float | None = None
        self._since: dict[tuple[str, str], tuple[_Stamp, float]] = {}

    def corrected(self, series: Sequence[SeriesProgress], now: dt.datetime) -> list[SeriesProgress]:
        """Return the series with the stamps that they would have if the wall clock had never been set."""
        at, known = self._steady(), self._since
        self._since = {}
        for item in series:
            uid = item.series_instance_uid
            for name, stamp in (
                ("first", (item.first_received_at, 0)),
                ("last", (item.last_received_at, item.received)),
            ):
                before = known.get((uid, name))
                if before is None or before[0] != stamp:
                    before = stamp, at - self._age_s(stamp[0], now, at)
                self._since[uid, name] = before
        self._looked = at
        return [self._corrected(item, now, at) for item in series]

    def _age_s(self, stamp: dt.datetime, now: dt.datetime, at: float) -> float:
        age_s = max(0.0, (now - stamp).total_seconds())
        return age_s if self._looked is None else min(age_s, at - self._looked)

    def _corrected(self, item: SeriesProgress, now: dt.datetime, at: float) -> SeriesProgress:
        first, last = (
            now - dt.timedelta(seconds=at - self._since[item.series_instance_uid, name][1])
            for name in ("first", "last")
        )
        return replace(item, first_received_at=first, last_received_at=last)
