"""Tolerances of phantoms: the site's own before the defaults, each change a new version with its source and author."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db import phantom_tables as p
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.qc_phantoms import PhantomKind, QcOutcome, Tolerance, outcome_of_value
from dicom_qa_node.domain.results import Measurement
from dicom_qa_node.quality_control.phantom_quantities import quantities_of
from dicom_qa_node.quality_control.tolerance_defaults import DEFAULT_TOLERANCES

__all__ = ["ToleranceSet", "Tolerances", "judge", "measured_outcome", "outcome_of"]

_LONGEST = 500


@dataclass(frozen=True, slots=True)
class ToleranceSet:
    """The tolerances that hold for one kind of phantom on one scanner, by quantity."""

    by_quantity: Mapping[str, Tolerance] = field(default_factory=dict)

    @classmethod
    def of(cls, kind: PhantomKind, scanner: str = "", own: Iterable[Tolerance] = ()) -> ToleranceSet:
        """Choose for each quantity: that of the scanner, else the site's, else the default."""
        chosen = {item.quantity: item for item in DEFAULT_TOLERANCES if item.kind is kind}
        mine = [item for item in own if item.kind is kind and item.scanner in ("", scanner)]
        for item in sorted(mine, key=lambda item: (item.scanner != "", item.tolerance_id or 0)):
            chosen[item.quantity] = item
        return cls(chosen)


class Tolerances:
    """Reads and adds tolerances; ``clock`` returns the current UTC time."""

    def __init__(self, database: Database, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._db, self._clock = database, clock

    def of(self, kind: PhantomKind, scanner: str = "") -> ToleranceSet:
        """Return the tolerances that hold now."""
        return ToleranceSet.of(kind, scanner, self.own(kind))

    def own(self, kind: PhantomKind) -> list[Tolerance]:
        """Return the latest tolerance of each quantity and scanner that persons have set."""
        table = p.tolerances.c
        newest = (
            sa.select(sa.func.max(table.tolerance_id))
            .where(table.kind == kind.value)
            .group_by(table.quantity, table.scanner)
        )
        query = sa.select(p.tolerances).where(table.tolerance_id.in_(newest)).order_by(table.tolerance_id)
        with self._db.read() as connection:
            return [_tolerance(row) for row in connection.execute(query)]

    def history(self, kind: PhantomKind, limit: int = 100) -> list[tuple[dt.datetime, Tolerance]]:
        """Return every version that persons have set, the latest first, each with its time."""
        query = sa.select(p.tolerances).where(p.tolerances.c.kind == kind.value)
        query = query.order_by(p.tolerances.c.tolerance_id.desc()).limit(limit)
        with self._db.read() as connection:
            return [(row.created_at, _tolerance(row)) for row in connection.execute(query)]

    def add(self, wanted: Tolerance) -> None:
        """Add a version; results from now on are judged by it, earlier ones keep their judgement.

        Raises
        ------
        Permanent
            It is impossible, or has no source; the text says which.
        """
        if wanted.quantity not in {item.name for item in quantities_of(wanted.kind)}:
            raise Permanent(f"a {wanted.kind.label} phantom has no quantity {wanted.quantity!r}")
        bounds = [bound for bound in (wanted.low, wanted.high) if bound is not None]
        if not all(math.isfinite(bound) for bound in bounds):
            raise Permanent("a bound is a number, or empty")
        if len(bounds) == 2 and bounds[0] > bounds[1]:
            raise Permanent("the lower bound is above the upper one")
        if not wanted.source.strip():
            raise Permanent("name the source of the tolerance, such as a standard or the acceptance test")
        values = {
            "kind": wanted.kind.value, "quantity": wanted.quantity, "scanner": wanted.scanner.strip()[:_LONGEST],
            "low": wanted.low, "high": wanted.high, "source": wanted.source.strip()[:_LONGEST],
            "dated": wanted.dated.strip()[:40], "author": wanted.author, "reason": wanted.reason.strip()[:_LONGEST],
        }  # fmt: skip
        with self._db.write() as connection:
            connection.execute(p.tolerances.insert().values(**values, created_at=self._clock()))


def judge(found: Iterable[Measurement], tolerances: ToleranceSet) -> tuple[Measurement, ...]:
    """Return measurements with their tolerance as bounds and the judgement in ``detail``."""
    return tuple(_judged(item, tolerances.by_quantity.get(item.name)) for item in found)


def outcome_of(judged: Iterable[Measurement]) -> QcOutcome:
    """Return what judged measurements come to: one outside is enough."""
    found = {measured_outcome(item) for item in judged}
    return next((one for one in (QcOutcome.OUTSIDE, QcOutcome.PASSED) if one in found), QcOutcome.NOT_JUDGED)


def measured_outcome(item: Measurement) -> QcOutcome:
    """Return what one judged measurement comes to; without a value it is not judged."""
    return QcOutcome.NOT_JUDGED if item.value is None else outcome_of_value(item.value, item.low, item.high)


def _judged(item: Measurement, tolerance: Tolerance | None) -> Measurement:
    if item.value is None:
        return item
    if tolerance is None or tolerance.outcome(item.value) is QcOutcome.NOT_JUDGED:
        return replace(item, detail="; ".join(filter(None, (item.detail, "not judged: no tolerance is set"))))
    words = f"{tolerance.outcome(item.value).value}; tolerance: {tolerance.source}, {tolerance.dated}".rstrip(", ")
    detail = "; ".join(filter(None, (item.detail, words)))
    return replace(item, low=tolerance.low, high=tolerance.high, detail=detail)


def _tolerance(row: Any) -> Tolerance:
    return Tolerance(
        kind=PhantomKind(row.kind), quantity=row.quantity, low=row.low, high=row.high, source=row.source,
        dated=row.dated, scanner=row.scanner, author=row.author, reason=row.reason, tolerance_id=row.tolerance_id,
    )  # fmt: skip
