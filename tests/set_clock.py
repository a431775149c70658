"""A host whose wall clock is set while its steady clock goes on."""

from __future__ import annotations

import datetime as dt

from dicom_qa_node.db.engine import Database
from tests.fake_clock import pass_on_server

__all__ = ["HOUR_S", "JUMPS", "YEAR_S", "Host"]

HOUR_S, YEAR_S = 3600.0, 365 * 86400.0
#: By how many seconds clocks are set in the tests.
JUMPS = (HOUR_S, -HOUR_S, YEAR_S, -YEAR_S)


class Host:
    """Two clocks: `pass_` moves both, and the server's where the database has one; `set_clock` the wall clock alone."""

    def __init__(self, database: Database | None = None) -> None:
        self._database = database
        self._begun = dt.datetime(2026, 1, 5, 8, 0, tzinfo=dt.UTC)
        self._steady_s, self._set_by_s = 1000.0, 0.0

    def pass_(self, seconds: float) -> None:
        self._steady_s += seconds
        if self._database is not None:
            pass_on_server(self._database, seconds)

    def set_clock(self, by_s: float) -> None:
        self._set_by_s += by_s

    def steady(self) -> float:
        return self._steady_s

    def __call__(self) -> dt.datetime:
        return self._begun + dt.timedelta(seconds=self._steady_s + self._set_by_s)
