"""Makes the log page's rows of results that were written before these rows existed; called by their revision."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator

import sqlalchemy as sa

from dicom_qa_node.records import SeriesFacts, result_from_json
from dicom_qa_node.store import tables as t
from dicom_qa_node.store.log_rows import Bits, deviation_from, facet_row, found_rows, log_row
from dicom_qa_node.store.log_words import index_patient, patient_words
from dicom_qa_node.store.review_tables import log_facets, log_findings, log_found, log_rows

__all__ = ["fill_log_rows"]

_AT_ONCE = 500
_HISTORY = 100

_LATEST = """
UPDATE log_rows SET latest = 0 WHERE EXISTS (SELECT 1 FROM results AS later
WHERE later.series_instance_uid = log_rows.series_instance_uid AND later.version > log_rows.version)
"""
_DELIVERED = """
UPDATE log_rows SET delivery = coalesce((
    SELECT CASE WHEN sum(CASE WHEN o.state = 'PARKED' THEN 1 ELSE 0 END) > 0 THEN 3
                WHEN sum(CASE WHEN o.state <> 'DELIVERED' THEN 1 ELSE 0 END) > 0 THEN 1
                WHEN count(*) > 0 THEN 2 ELSE 0 END
    FROM reports AS r JOIN outbox AS o ON o.report_uid = r.sop_instance_uid
    WHERE r.series_instance_uid = log_rows.series_instance_uid AND r.version = log_rows.version), 0)
"""


def fill_log_rows(connection: sa.Connection) -> None:
    """Read every result, the oldest first, and write its row, its facet and its words."""
    bits = Bits({})
    facets: dict[str, dict[str, object]] = {}
    history: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=_HISTORY))
    for page in _pages(connection):
        rows, words = [], []
        for stored in page:
            facts = SeriesFacts(**{name: getattr(stored, name) for name in t.FACT_COLUMNS})
            result = result_from_json(stored.payload)
            facet = facet_row(facts, result)
            known = facets.setdefault(str(facet["digest"]), facet | {"facet_id": len(facets) + 1, "rows": 0})
            known["rows"] = int(str(known["rows"])) + 1
            facet_id = int(str(known["facet_id"]))
            row = log_row(stored.result_id, stored.version, facts, result, stored.scored_at, facet_id, bits)
            rows.append(row | {"deviation": deviation_from(result.score, history[facet_id])})
            words.append({"result_id": stored.result_id, "words": patient_words(facts)})
            if result.score is not None:
                history[facet_id].append(result.score)
        _keep_facets(connection, facets)
        connection.execute(log_rows.insert(), rows)
        if found := [item for row in rows for item in found_rows(row)]:
            connection.execute(log_found.insert(), found)
        index_patient(connection, words)
    for key, bit in bits.named().items():
        connection.execute(log_findings.insert().values(bit=bit, key=key))
    connection.execute(sa.text(_LATEST))
    connection.execute(sa.text(_DELIVERED))


def _pages(connection: sa.Connection) -> Iterator[list[sa.Row[tuple[object, ...]]]]:
    r = t.results.c
    names = [t.series.c[name] for name in t.FACT_COLUMNS]
    query = sa.select(r.result_id, r.version, r.scored_at, r.payload, *names)
    query = query.join(t.series, t.series.c.series_instance_uid == r.series_instance_uid).order_by(r.result_id)
    last = 0
    while page := list(connection.execute(query.where(r.result_id > last).limit(_AT_ONCE))):
        yield page
        last = page[-1].result_id


def _keep_facets(connection: sa.Connection, facets: dict[str, dict[str, object]]) -> None:
    known = set(connection.execute(sa.select(log_facets.c.digest)).scalars())
    new = [row for digest, row in facets.items() if digest not in known]
    if new:
        connection.execute(log_facets.insert(), new)
    counted = log_facets.update().where(log_facets.c.digest == sa.bindparam("d")).values(rows=sa.bindparam("n"))
    connection.execute(counted, [{"d": digest, "n": row["rows"]} for digest, row in facets.items()])
