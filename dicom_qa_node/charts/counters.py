"""Counters and histograms of the flow that Prometheus reads, counted once per result and durable with it."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db import chart_tables as s
from dicom_qa_node.db import tables as t
from dicom_qa_node.domain.results import SeriesResult
from dicom_qa_node.domain.states import SeriesState

__all__ = ["BUCKETS_S", "HISTOGRAMS", "Counters", "read_counters"]

BUCKETS_S = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
HISTOGRAMS = ("score_duration_seconds", "completion_lag_seconds", "turnaround_seconds")


class Counters:
    """The counts of one batch; ``fresh`` are the series of it that were scored for the first time."""

    def __init__(self, connection: sa.Connection, fresh: Sequence[str]) -> None:
        self._connection = connection
        self._complete = _completions(connection, fresh)
        self._added: dict[tuple[str, str], float] = {}

    def count(self, row: sa.Row[Any], result: SeriesResult) -> None:
        """Count one result."""
        labels = {"scanner": row.scanner, "kind": row.kind, "grade": row.grade or "not graded"}
        self._add("scores", labels, 1)
        if row.score is not None:
            of_scanner = {"scanner": row.scanner, "kind": row.kind}
            self._add("score_sum", of_scanner, row.score)
            self._add("score_count", of_scanner, 1)
        for finding in result.findings:
            self._add("findings", {"finding": finding.key, "severity": finding.severity.value}, 1)
        if result.timings_ms:
            total_ms = result.timings_ms.get("total", sum(result.timings_ms.values()))
            self._observe("score_duration_seconds", total_ms / 1000)
        if row.version == 1:
            self._add("scored_images", {}, row.received)
            self._observe("turnaround_seconds", (row.scored_at - row.last_received_at).total_seconds())
            complete = self._complete.get(row.series_instance_uid)
            if complete is not None:
                self._observe("completion_lag_seconds", (complete - row.last_received_at).total_seconds())

    def flush(self) -> None:
        """Add the counts to the stored ones."""
        for (name, labels), value in sorted(self._added.items()):
            same = (s.counters.c.name == name) & (s.counters.c.labels == labels)
            update = s.counters.update().where(same).values(value=s.counters.c.value + value)
            if not self._connection.execute(update).rowcount:
                self._connection.execute(s.counters.insert().values(name=name, labels=labels, value=value))

    def _add(self, name: str, labels: dict[str, str], value: float) -> None:
        key = (name, _key(labels))
        self._added[key] = self._added.get(key, 0.0) + value

    def _observe(self, name: str, seconds: float) -> None:
        # Less than nothing: an image came while the series was on its way; it is scored again.
        if seconds >= 0:
            bucket = next((f"{limit:g}" for limit in BUCKETS_S if seconds <= limit), "+Inf")
            self._add(name, {"le": bucket}, 1)
            self._add(f"{name}_sum", {}, seconds)


def read_counters(connection: sa.Connection) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return every counter by its name, with its labels."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for row in connection.execute(sa.select(s.counters).order_by(s.counters.c.name, s.counters.c.labels)):
        found.setdefault(row.name, []).append((json.loads(row.labels), row.value))
    return found


def _key(labels: dict[str, str]) -> str:
    cut = {name: value[:100] for name, value in labels.items()}
    return json.dumps(cut, sort_keys=True, ensure_ascii=False)


def _completions(connection: sa.Connection, uids: Sequence[str]) -> dict[str, dt.datetime]:
    event = t.events.c
    wanted = event.series_instance_uid.in_(list(uids)) & (event.version == 1)
    query = sa.select(event.series_instance_uid, sa.func.min(event.at)).where(
        wanted & (event.old_state == SeriesState.RECEIVING.value) & (event.new_state == SeriesState.COMPLETE.value)
    )
    return {row[0]: row[1] for row in connection.execute(query.group_by(event.series_instance_uid))}
