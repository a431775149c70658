"""Reads the runs of QC phantoms: the latest ones, those of some days, of a series, and the charts of a phantom."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db import chart_tables as s
from dicom_qa_node.db import phantom_tables as p
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.qc_phantoms import QcOutcome, outcome_of_value

__all__ = ["ChartPoint", "PhantomCharts", "PhantomRuns", "Run", "Value"]


@dataclass(frozen=True, slots=True)
class Run:
    """One scan of a phantom; ``phantom`` and ``kind`` are "" where none is configured for it."""

    result_id: int
    series_instance_uid: str
    version: int
    scanner_id: int
    scanner: str
    phantom: str
    kind: str
    protocol: str
    day: dt.date
    at: dt.datetime
    outcome: QcOutcome
    remark: str


@dataclass(frozen=True, slots=True)
class Value:
    """A measured value with the tolerance by which it was judged."""

    quantity: str
    meaning: str
    unit: str
    value: float
    low: float | None
    high: float | None

    @property
    def outcome(self) -> QcOutcome:
        """The judgement."""
        return outcome_of_value(self.value, self.low, self.high)


@dataclass(frozen=True, slots=True)
class ChartPoint:
    """A value of a chart with its run."""

    at: dt.datetime
    series_instance_uid: str
    value: Value


@dataclass(frozen=True, slots=True)
class PhantomCharts:
    """A phantom on a scanner that has runs."""

    scanner_id: int
    scanner: str
    phantom: str
    kind: str
    count: int
    last_at: dt.datetime


class PhantomRuns:
    """Reads runs and values; a run of a version that was replaced does not count."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def latest(self, limit: int = 50, before: int | None = None) -> list[Run]:
        """Return runs, the latest result first; ``before`` is the number of the last one shown."""
        query = _runs().where(p.runs.c.latest).order_by(p.runs.c.result_id.desc()).limit(limit)
        if before is not None:
            query = query.where(p.runs.c.result_id < before)
        with self._db.read() as connection:
            return [_run(row) for row in connection.execute(query)]

    def between(self, first: dt.date, last: dt.date, limit: int = 5000) -> list[Run]:
        """Return the runs of these days, oldest first."""
        inside = p.runs.c.latest & (p.runs.c.day >= first) & (p.runs.c.day <= last)
        query = _runs().where(inside).order_by(p.runs.c.day, p.runs.c.result_id).limit(limit)
        with self._db.read() as connection:
            return [_run(row) for row in connection.execute(query)]

    def of_series(self, series_instance_uid: str) -> Run | None:
        """Return the run of a series that counts, None without one."""
        mine = (p.runs.c.series_instance_uid == series_instance_uid) & p.runs.c.latest
        with self._db.read() as connection:
            row = connection.execute(_runs().where(mine)).first()
            return None if row is None else _run(row)

    def values(self, result_id: int) -> list[Value]:
        """Return what a run measured."""
        query = sa.select(p.values).where(p.values.c.result_id == result_id).order_by(p.values.c.quantity)
        with self._db.read() as connection:
            return [_value(row) for row in connection.execute(query)]

    def charts(self) -> list[PhantomCharts]:
        """Return every phantom of every scanner that was analysed, by scanner and phantom."""
        run = p.runs.c
        query = (
            sa.select(
                run.scanner_id, s.scanners.c.name, run.phantom, sa.func.max(run.kind).label("kind"),
                sa.func.count().label("total"), sa.func.max(run.at).label("last_at"),
            )
            .join(s.scanners, s.scanners.c.scanner_id == run.scanner_id)
            .where(run.latest & (run.phantom != ""))
            .group_by(run.scanner_id, s.scanners.c.name, run.phantom)
            .order_by(s.scanners.c.name, run.phantom)
        )  # fmt: skip
        with self._db.read() as connection:
            rows = connection.execute(query).all()
        return [PhantomCharts(row.scanner_id, row.name, row.phantom, row.kind, row.total, row.last_at) for row in rows]

    def chart(self, scanner_id: int, phantom: str, limit: int = 300) -> dict[str, list[ChartPoint]]:
        """Return the points of every quantity of a phantom on a scanner, oldest first, of its latest runs."""
        run = p.runs.c
        chosen = (
            sa.select(run.result_id, run.at, run.series_instance_uid)
            .where((run.scanner_id == scanner_id) & (run.phantom == phantom) & run.latest)
            .order_by(run.at.desc())
            .limit(limit)
            .subquery()
        )
        query = (
            sa.select(p.values, chosen.c.at, chosen.c.series_instance_uid)
            .join(chosen, chosen.c.result_id == p.values.c.result_id)
            .order_by(chosen.c.at, p.values.c.result_id)
        )
        found: dict[str, list[ChartPoint]] = {}
        with self._db.read() as connection:
            for row in connection.execute(query):
                point = ChartPoint(row.at, row.series_instance_uid, _value(row))
                found.setdefault(row.quantity, []).append(point)
        return found


def _runs() -> sa.Select[tuple[Any, ...]]:
    named = s.scanners.c.name.label("scanner")
    return sa.select(p.runs, named).join(s.scanners, s.scanners.c.scanner_id == p.runs.c.scanner_id)


def _run(row: Any) -> Run:
    values = {name: getattr(row, name) for name in Run.__slots__}
    return Run(**(values | {"outcome": QcOutcome(row.outcome)}))


def _value(row: Any) -> Value:
    return Value(**{name: getattr(row, name) for name in Value.__slots__})
