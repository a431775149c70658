"""Scans of QC phantoms in a month: what was done, what came of it, and what the schedules miss."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from zoneinfo import ZoneInfo

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.qc_phantoms import QcOutcome
from dicom_qa_node.monthly_report.figures import PhantomLine
from dicom_qa_node.monthly_report.month import Month
from dicom_qa_node.quality_control.qc_calendar import QcSchedules, missed_periods
from dicom_qa_node.quality_control.runs import PhantomRuns, Run

__all__ = ["phantom_lines"]

_LONGEST_PERIOD = dt.timedelta(days=31)
_MOST_REMARKS = 5
_MOST_VALUES_READ = 50


def phantom_lines(
    database: Database, config: Config, month: Month, scanner: str, now: dt.datetime
) -> tuple[PhantomLine, ...]:
    """Return a line for each phantom on each scanner, and one for each phantom of which every scan is missing.

    A day ends in the zone of the charts (``charts.timezone``), as in calendar and alerts.
    """
    today = now.astimezone(ZoneInfo(config.charts.timezone)).date()
    reader = PhantomRuns(database)
    by_phantom: dict[tuple[str, str], list[Run]] = defaultdict(list)
    # A week or month that begins in this month may end in the next.
    found = reader.between(month.first_day, month.last_day + _LONGEST_PERIOD)
    for run in found:
        if scanner in ("", run.scanner) and run.day <= month.last_day:
            by_phantom[run.scanner, run.phantom or "(not configured)"].append(run)
    missed = _missed(database, config, month, scanner, today, found)
    lines = [_line(reader, key, runs, missed.pop(key[1], ())) for key, runs in sorted(by_phantom.items())]
    nothing = [PhantomLine(scanner or "any", name, 0, 0, 0, 0, 0, days, ()) for name, days in sorted(missed.items())]
    return (*lines, *(line for line in nothing if line.missed))


def _line(reader: PhantomRuns, key: tuple[str, str], runs: Sequence[Run], missed: tuple[str, ...]) -> PhantomLine:
    count = {outcome: sum(run.outcome is outcome for run in runs) for outcome in QcOutcome}
    remarks = [words for run in runs[:_MOST_VALUES_READ] for words in _remarks(reader, run)]
    return PhantomLine(
        key[0], key[1], len(runs), count[QcOutcome.PASSED], count[QcOutcome.OUTSIDE], count[QcOutcome.NOT_JUDGED],
        count[QcOutcome.NOT_ANALYSED], missed, tuple(remarks[:_MOST_REMARKS]),
    )  # fmt: skip


def _remarks(reader: PhantomRuns, run: Run) -> list[str]:
    """Return the values of a run outside their tolerance, or why it was not analysed."""
    day = f"{run.day:%d %b}"
    if run.outcome is QcOutcome.OUTSIDE:
        outside = [value for value in reader.values(run.result_id) if value.outcome is QcOutcome.OUTSIDE]
        return [f"{day} {item.meaning} {item.value:.4g} ({_bounds(item.low, item.high)})" for item in outside]
    return [f"{day} {run.remark}"] if run.outcome is QcOutcome.NOT_ANALYSED and run.remark else []


def _bounds(low: float | None, high: float | None) -> str:
    if low is None:
        return f"to {high:g}"
    return f"from {low:g}" if high is None else f"{low:g} to {high:g}"


def _missed(
    database: Database, config: Config, month: Month, scanner: str, today: dt.date, done: Sequence[Run]
) -> dict[str, tuple[str, ...]]:
    """Return for each phantom with a schedule the periods of the month, ended by today, without a scan."""
    wanted = [item for item in config.phantoms.analyse if not scanner or item.scanned_on(scanner)]
    since = QcSchedules(database).since(wanted, today)
    found: dict[str, tuple[str, ...]] = {}
    for item in wanted:
        if item.name not in since:
            continue
        days = {run.day for run in done if run.phantom == item.name}
        begin = max(since[item.name], month.first_day)
        found[item.name] = tuple(
            f"{first:%d %b}" if first == last else f"{first:%d %b} to {last:%d %b}"
            for first, last in missed_periods(item.schedule, begin, month.last_day, days, today)
        )
    return found
