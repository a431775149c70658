"""Which series another one is compared with: the patient's prior, and the one that stands for the scanner."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.log_tables import log_rows
from dicom_qa_node.quality_log.filters import LogRow
from dicom_qa_node.quality_log.search import lines

__all__ = ["ENOUGH", "LAST", "Similar", "SimilarSeries"]

LAST = 50
"""How many series of a scanner and protocol its median is taken of."""
ENOUGH = 10
_MOST_OF_A_PATIENT = 200


@dataclass(frozen=True, slots=True)
class Similar:
    """A series to compare with, and why it was chosen; ``row`` is None where there is none, and ``why`` says so."""

    row: LogRow | None
    why: str


class SimilarSeries:
    """Finds them, by queries that are bounded however long the log is."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def prior(self, own: LogRow) -> Similar:
        """Return the patient's last earlier series, of the same protocol if there is one, else of the body part."""
        facts, s, r = own.facts, t.series.c, log_rows.c
        if not facts.patient_id:
            return Similar(None, "the series has no Patient ID")
        query = (
            sa.select(s.series_instance_uid, s.study_date, s.study_time, s.protocol_name, s.body_part_examined)
            .where((s.patient_id == facts.patient_id) & (s.series_instance_uid != facts.series_instance_uid))
            .where((s.modality == facts.modality) & (s.study_instance_uid != facts.study_instance_uid))
            .where(s.patient_birth_date.in_([facts.patient_birth_date, ""]) if facts.patient_birth_date else sa.true())
            .order_by(s.last_received_at.desc())
            .limit(_MOST_OF_A_PATIENT)
        )
        with self._db.read() as connection:
            found = [row for row in connection.execute(query) if _earlier(row, own)]
            for same in ("protocol_name", "body_part_examined"):
                alike = [row for row in found if getattr(row, same) == getattr(facts, same) != ""]
                alike.sort(key=lambda row: (row.study_date, row.study_time), reverse=True)
                for row in alike:
                    latest = (r.series_instance_uid == row.series_instance_uid) & (r.latest == 1)
                    number = connection.execute(sa.select(r.result_id).where(latest)).scalar()
                    if number is not None:
                        what = "protocol" if same == "protocol_name" else "body part, of another protocol"
                        return Similar(lines(connection, [number])[0], f"the patient's prior series of the same {what}")
        return Similar(None, "the node has no earlier series of this patient with the same protocol or body part")

    def median_score(self, own: LogRow) -> Similar:
        """Return the series whose score is nearest the median of the scanner's last ones of this protocol."""
        return self._median(own, "score", lambda row: row.score)

    def median_noise(self, own: LogRow, name: str) -> Similar:
        """Return the series whose measurement ``name``, a noise, is nearest the median of the last ones."""
        return self._median(own, "noise", lambda row: _measured(row.payload, name))

    def _median(self, own: LogRow, what: str, value_of: Callable[[Any], float | None]) -> Similar:
        r, s = log_rows.c, t.series.c
        group = sa.select(r.facet_id).where(r.result_id == own.result_id).scalar_subquery()
        query = (
            sa.select(r.result_id, r.score, s.kept, t.results.c.payload)
            .join(t.series, s.series_instance_uid == r.series_instance_uid)
            .join(t.results, t.results.c.result_id == r.result_id)
            .where((r.facet_id == group) & (r.latest == 1) & (r.series_instance_uid != own.facts.series_instance_uid))
            .order_by(r.scored_at.desc())
            .limit(LAST)
        )
        with self._db.read() as connection:
            rows = connection.execute(query).all()
            valued = [(row, value) for row in rows if (value := value_of(row)) is not None]
            if len(valued) < ENOUGH:
                return Similar(None, f"only {len(valued)} other series of this scanner and protocol have a {what}")
            centre = statistics.median(value for _, value in valued)
            near = sorted(valued, key=lambda pair: abs(pair[1] - centre))
            number, has_images = _chosen([(row.result_id, row.kept > 0) for row, _ in near])
            (shown,) = lines(connection, [number])
        why = f"nearest the median {what} {centre:.3g} of the last {len(valued)} of this scanner and protocol"
        images = ", of those whose images are here" if has_images and near[0][0].result_id != number else ""
        return Similar(shown, why + images)


def _chosen(near: Sequence[tuple[int, bool]]) -> tuple[int, bool]:
    """Return the nearest of the middle half that still has images, else the nearest."""
    middle = near[: max(1, len(near) // 2)]
    return next((item for item in middle if item[1]), near[0])


def _earlier(row: Any, own: LogRow) -> bool:
    facts = own.facts
    if not row.study_date or not facts.study_date:
        return False
    return (row.study_date, row.study_time) < (facts.study_date, facts.study_time)


def _measured(payload: str, name: str) -> float | None:
    found = next((item for item in json.loads(payload).get("measurements", ()) if item["name"] == name), None)
    return None if found is None or found.get("value") is None else float(found["value"])
