"""The order of a chart: by the time of the acquisition or of the scoring, which series arrived late, and weeks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

__all__ = ["LATE_BY", "TimeAxis", "late_arrivals", "monday_of"]

LATE_BY = dt.timedelta(days=1)
"""A series is late where others, acquired more than this after it, were scored before it."""


class TimeAxis(StrEnum):
    """What orders the points of a chart."""

    ACQUIRED = "acquired"
    SCORED = "scored"


def late_arrivals(acquired: Sequence[dt.datetime], scored: Sequence[dt.datetime]) -> NDArray[np.bool_]:
    """Return which series arrived late: drawn, but without effect on what was judged before they came.

    Backfilled and resent series are such. Both sequences are in the same order, whichever it is.
    """
    late = np.zeros(len(acquired), dtype=bool)
    newest: dt.datetime | None = None
    for index in sorted(range(len(acquired)), key=lambda i: (scored[i], acquired[i])):
        if newest is not None and newest - acquired[index] > LATE_BY:
            late[index] = True
        elif newest is None or acquired[index] > newest:
            newest = acquired[index]
    return late


def monday_of(at: dt.datetime) -> dt.date:
    """Return the Monday of a time's week, in UTC."""
    day = at.astimezone(dt.UTC).date()
    return day - dt.timedelta(days=day.weekday())
