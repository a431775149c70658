"""How one scanner's scores went before a series, for the page that goes with its report."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from dicom_qa_node.records import SeriesFacts, SeriesResult
from dicom_qa_node.store import tables as t
from dicom_qa_node.store.log_rows import scanner_name

__all__ = ["earlier_scores"]


def earlier_scores(
    connection: sa.Connection, facts: SeriesFacts, result: SeriesResult, before: dt.datetime, limit: int
) -> list[float]:
    """Return the last scores of other series of the same scanner and kind, oldest first.

    Only scores by the same weights count: those of another network cannot be compared.
    """
    r = t.results.c
    query = (
        sa.select(r.score)
        .where(
            r.scanner == scanner_name(facts),
            r.scored_at < before,
            r.kind == result.kind,
            r.model_sha256 == result.model.sha256,
            r.series_instance_uid != result.series_instance_uid,
            r.score.is_not(None),
        )
        .order_by(r.scored_at.desc(), r.result_id.desc())
        .limit(limit)
    )
    return [float(score) for score in connection.execute(query).scalars()][::-1]
