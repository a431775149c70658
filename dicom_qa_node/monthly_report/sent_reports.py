"""Which monthly reports have reached which destination."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db.backfill_tables import monthly_reports
from dicom_qa_node.db.engine import Database, insert_ignore

__all__ = ["SentReports"]


class SentReports:
    """One row for each month, scanner ("" for the site) and destination; ``clock`` returns the current UTC time."""

    def __init__(self, database: Database, clock: Callable[[], dt.datetime]) -> None:
        self._db, self._clock = database, clock

    def due(self, month: str, scanner: str, destination: str) -> bool:
        """Whether a report is to go to a destination now."""
        row = self._row(month, scanner, destination)
        return row is None or (row.done_at is None and row.not_before <= self._clock())

    def attempts(self, month: str, scanner: str, destination: str) -> int:
        """Return how often it has failed."""
        row = self._row(month, scanner, destination)
        return 0 if row is None else int(row.attempts)

    def mark(self, month: str, scanner: str, destination: str, words: str) -> None:
        """Note that a report has reached its destination."""
        self._write(month, scanner, destination, {"done_at": self._clock(), "words": words[:500]})

    def try_later(self, month: str, scanner: str, destination: str, words: str, wait_s: float) -> None:
        """Note a failure."""
        due = self._clock() + dt.timedelta(seconds=wait_s)
        m = monthly_reports.c
        self._write(month, scanner, destination, {"not_before": due, "attempts": m.attempts + 1, "words": words[:500]})

    def latest(self, limit: int = 24) -> list[Any]:
        """Return the rows, the latest month first."""
        m = monthly_reports.c
        query = sa.select(monthly_reports).order_by(m.month.desc(), m.scanner, m.destination).limit(limit)
        with self._db.read() as connection:
            return list(connection.execute(query).all())

    def _row(self, month: str, scanner: str, destination: str) -> Any:
        with self._db.read() as connection:
            return connection.execute(sa.select(monthly_reports).where(_key(month, scanner, destination))).one_or_none()

    def _write(self, month: str, scanner: str, destination: str, values: dict[str, Any]) -> None:
        new = {"month": month, "scanner": scanner, "destination": destination}
        with self._db.write() as connection:
            insert_ignore(
                connection, monthly_reports, [new | {"not_before": self._clock(), "attempts": 0, "words": ""}]
            )
            update = monthly_reports.update().where(_key(month, scanner, destination))
            connection.execute(update.values(**values))


def _key(month: str, scanner: str, destination: str) -> sa.ColumnElement[bool]:
    m = monthly_reports.c
    return (m.month == month) & (m.scanner == scanner) & (m.destination == destination)
