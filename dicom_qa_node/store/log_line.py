"""Makes lines of the log page from their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.records import SeriesState
from dicom_qa_node.store import tables as t
from dicom_qa_node.store.log_query import LogRow
from dicom_qa_node.store.registry import facts_of
from dicom_qa_node.store.review_tables import (
    GRADE_CODES,
    SEVERITY_CODES,
    DeliveryMark,
    ReviewMark,
    log_facets,
    log_findings,
    log_rows,
)

__all__ = ["lines"]

_GRADES = {code: grade for grade, code in GRADE_CODES.items()}
_SEVERITIES = {code: severity for severity, code in SEVERITY_CODES.items()}


def lines(connection: sa.Connection, result_ids: Sequence[int]) -> list[LogRow]:
    """Read the lines of these results, in no order."""
    if not result_ids:
        return []
    keys = {row.bit: row.key for row in connection.execute(sa.select(log_findings))}
    own = [column for column in log_rows.c if column.name not in ("series_instance_uid", "version")]
    facts = [t.series.c[name] for name in t.FACT_COLUMNS]
    query = (
        sa.select(
            *own, *facts, t.series.c.state, log_rows.c.version.label("row_version"),
            log_facets.c.scanner, log_facets.c.kind,
        )
        .join(t.series, t.series.c.series_instance_uid == log_rows.c.series_instance_uid)
        .join(log_facets, log_facets.c.facet_id == log_rows.c.facet_id)
        .where(log_rows.c.result_id.in_(list(result_ids)))
    )  # fmt: skip
    return [_line(row, keys) for row in connection.execute(query)]


def _line(row: Any, keys: dict[int, str]) -> LogRow:
    return LogRow(
        result_id=row.result_id,
        facts=facts_of(row),
        scanner=row.scanner,
        version=row.row_version,
        latest=bool(row.latest),
        state=SeriesState(row.state),
        scored_at=row.scored_at,
        kind=row.kind,
        score=row.score,
        interval=None if row.low is None else (row.low, row.high),
        grade=_GRADES[row.grade],
        severity=_SEVERITIES[row.severity],
        findings=tuple(key for bit, key in sorted(keys.items()) if row.findings >> bit & 1),
        deviation=row.deviation,
        worst_slice=row.worst_slice,
        delivery=DeliveryMark(row.delivery),
        review=ReviewMark(row.review),
    )
