"""The calendar of phantoms: per phantom and day what was due, done, failed or missed.

A phantom is done in a period (day, working day, week from Monday, month) when one run of the period was analysed
within tolerances or without any; it failed when every run of it did. A period is missed when it ends without a run.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from dicom_qa_node.config.phantoms import Phantom
from dicom_qa_node.db import phantom_tables as p
from dicom_qa_node.db.engine import Database, insert_ignore
from dicom_qa_node.domain.qc_phantoms import QcOutcome
from dicom_qa_node.quality_control.runs import Run

__all__ = ["CalendarDay", "DayState", "Missed", "QcSchedules", "calendar_of", "missed_periods", "periods"]

_LOOK_BACK_DAYS = 62
_FAILED = (QcOutcome.OUTSIDE, QcOutcome.NOT_ANALYSED)


class DayState(StrEnum):
    """What a day of the calendar shows."""

    DONE = "done"
    FAILED = "failed"
    MISSING = "missing"
    DUE = "due"
    FREE = "not due"


@dataclass(frozen=True, slots=True)
class CalendarDay:
    """One day of a phantom; ``runs`` are its runs."""

    day: dt.date
    state: DayState
    runs: tuple[Run, ...] = ()


@dataclass(frozen=True, slots=True)
class Missed:
    """A period that ended without a run."""

    phantom: Phantom
    first: dt.date
    last: dt.date


def periods(schedule: str, first: dt.date, last: dt.date) -> Iterator[tuple[dt.date, dt.date]]:
    """Yield the periods of a schedule, each with its first and last day, that begin in a span of days."""
    day = first
    while day <= last:
        if schedule == "daily" or (schedule == "workdays" and day.weekday() < 5):
            yield day, day
        elif schedule == "weekly" and day.weekday() == 0:
            yield day, day + dt.timedelta(days=6)
        elif schedule == "monthly" and day.day == 1:
            yield day, (day + dt.timedelta(days=31)).replace(day=1) - dt.timedelta(days=1)
        day += dt.timedelta(days=1)


def missed_periods(
    schedule: str, first: dt.date, last: dt.date, done: Collection[dt.date], today: dt.date
) -> Iterator[tuple[dt.date, dt.date]]:
    """Yield those of `periods` that ended before today without any of the days on which there was a run."""
    for begin, end in periods(schedule, first, last):
        if end < today and not any(begin <= day <= end for day in done):
            yield begin, end


def calendar_of(
    phantom: Phantom, runs: Iterable[Run], days: Sequence[dt.date], today: dt.date, since: dt.date
) -> list[CalendarDay]:
    """Return what each day shows; a missed period is marked on its last day.

    ``since`` is the day on which the node first saw the phantom's schedule: nothing is missed in a period that began
    before.
    """
    by_day: dict[dt.date, list[Run]] = {}
    for run in runs:
        if run.phantom == phantom.name:
            by_day.setdefault(run.day, []).append(run)
    marks: dict[dt.date, DayState] = {}
    if days:
        for first, last in periods(phantom.schedule, days[0] - dt.timedelta(days=31), days[-1]):
            done = any(first <= day <= last for day in by_day)
            if not done and last >= today >= first:
                marks[last] = DayState.DUE
            elif not done and last < today and first >= since:
                marks[last] = DayState.MISSING
    return [CalendarDay(day, _state(by_day.get(day, []), marks.get(day)), tuple(by_day.get(day, ()))) for day in days]


def _state(runs: Sequence[Run], mark: DayState | None) -> DayState:
    if not runs:
        return mark or DayState.FREE
    return DayState.FAILED if all(run.outcome in _FAILED for run in runs) else DayState.DONE


class QcSchedules:
    """Knows since when each schedule holds and which periods were missed lately."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def since(self, phantoms: Sequence[Phantom], today: dt.date) -> dict[str, dt.date]:
        """Return for each phantom with a schedule the day on which the node first saw it; new ones are noted."""
        wanted = [item for item in phantoms if item.schedule != "none"]
        table = p.schedules.c
        query = sa.select(p.schedules).where(table.phantom.in_([item.name for item in wanted]))
        with self._db.read() as connection:
            known = {(row.phantom, row.schedule): row.first_day for row in connection.execute(query)}
        fresh = [item for item in wanted if (item.name, item.schedule) not in known]
        if fresh:
            rows = [{"phantom": item.name, "schedule": item.schedule, "first_day": today} for item in fresh]
            with self._db.write() as connection:
                insert_ignore(connection, p.schedules, rows)
        return {item.name: known.get((item.name, item.schedule), today) for item in wanted}

    def missed(self, phantoms: Sequence[Phantom], today: dt.date) -> list[Missed]:
        """Return the periods of the last two months that ended without a run, oldest first."""
        found: list[Missed] = []
        since = self.since(phantoms, today)
        for item in phantoms:
            if item.name not in since:
                continue
            begin = max(since[item.name], today - dt.timedelta(days=_LOOK_BACK_DAYS))
            days = self._days(item.name, begin)
            found += [
                Missed(item, first, last) for first, last in missed_periods(item.schedule, begin, today, days, today)
            ]
        return found

    def _days(self, phantom: str, begin: dt.date) -> list[dt.date]:
        run = p.runs.c
        query = sa.select(run.day).where((run.phantom == phantom) & (run.day >= begin) & run.latest).distinct()
        with self._db.read() as connection:
            return list(connection.execute(query).scalars())
