"""What the node page and the metrics say of the flow: throughput, last errors, peers, deliveries, runs of tasks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_qa_node.charts.counters import read_counters
from dicom_qa_node.db import chart_tables as s
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.states import DeliveryState, SeriesState

__all__ = ["LastError", "NodeStatistics", "PeerContact", "TaskRun"]

_UNDELIVERED = sa.text(t.UNDELIVERED)
_MOST_PEERS = 200


@dataclass(frozen=True, slots=True)
class PeerContact:
    """A peer that has opened associations, and when it did so last."""

    calling_ae: str
    host: str
    last_at: dt.datetime


@dataclass(frozen=True, slots=True)
class LastError:
    """The latest error of a kind: ``kind`` is scoring, delivery, parked series or quarantine; ``at`` where known."""

    kind: str
    text: str
    about: str
    at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class TaskRun:
    """A periodic task: its last run, how long it took, the next one, and the error of the last run ("" if none)."""

    name: str
    every_s: float
    last_at: dt.datetime | None
    took_s: float | None
    next_at: dt.datetime | None
    error: str


class NodeStatistics:
    """Reads what is known of the flow; every call is one or a few look-ups by index."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def scored_since(self, since: dt.datetime) -> int:
        """Return how many versions were scored since a time."""
        return self._count(t.results, t.results.c.scored_at >= since)

    def received_since(self, since: dt.datetime) -> int:
        """Return how many series got their latest image since a time."""
        return self._count(t.series, t.series.c.last_received_at >= since)

    def scored_per_hour(self, now: dt.datetime, hours: int = 24) -> list[int]:
        """Return how many versions were scored in each of the last hours, the latest last."""
        begin = now - dt.timedelta(hours=hours)
        query = sa.select(t.results.c.scored_at).where(t.results.c.scored_at >= begin)
        found = [0] * hours
        with self._db.read() as connection:
            for at in connection.execute(query).scalars():
                found[min(int((at - begin).total_seconds() // 3600), hours - 1)] += 1
        return found

    def peers(self) -> list[PeerContact]:
        """Return the peers that ever opened an association, the latest first, by one look-up each."""
        column = t.associations.c
        place: tuple[str, str] = ("", "")
        found: list[PeerContact] = []
        with self._db.read() as connection:
            while len(found) < _MOST_PEERS:
                behind = sa.tuple_(column.calling_ae, column.host) > sa.tuple_(*(sa.literal(part) for part in place))
                pair = sa.select(column.calling_ae, column.host).where(behind)
                row = connection.execute(pair.order_by(column.calling_ae, column.host).limit(1)).one_or_none()
                if row is None:
                    break
                place = (row.calling_ae, row.host)
                mine = (column.calling_ae == row.calling_ae) & (column.host == row.host)
                last = connection.execute(sa.select(sa.func.max(column.opened_at)).where(mine)).scalar_one()
                found.append(PeerContact(*place, last))
        return sorted(found, key=lambda peer: peer.last_at, reverse=True)

    def last_errors(self) -> list[LastError]:
        """Return the latest error of each kind that there is."""
        with self._db.read() as connection:
            return [error for look in (_scoring, _delivery, _parked, _quarantined) if (error := look(connection))]

    def oldest_undelivered(self) -> dt.datetime | None:
        """Return when the oldest report was queued that some target does not have, parked ones included."""
        query = sa.select(sa.func.min(t.outbox.c.created_at)).where(_UNDELIVERED)
        with self._db.read() as connection:
            found: dt.datetime | None = connection.execute(query).scalar_one()
        return found

    def undelivered_by_target(self) -> dict[str, dict[str, int]]:
        """Return for each target how many reports wait, are on their way or are parked."""
        query = sa.select(t.outbox.c.target, t.outbox.c.state, sa.func.count()).where(_UNDELIVERED)
        found: dict[str, dict[str, int]] = {}
        with self._db.read() as connection:
            for target, state, number in connection.execute(query.group_by(t.outbox.c.target, t.outbox.c.state)):
                found.setdefault(target, {})[state] = int(number)
        return found

    def received_images(self) -> int:
        """Return the number of the latest stored image, which grows with each one that arrives."""
        with self._db.read() as connection:
            return int(connection.execute(sa.select(sa.func.max(t.instances.c.instance_id))).scalar_one() or 0)

    def counters(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        """Return the counters that `charts.chart_ingest` keeps."""
        with self._db.read() as connection:
            return read_counters(connection)

    def task_runs(self) -> list[TaskRun]:
        """Return the periodic tasks, by name."""
        with self._db.read() as connection:
            rows = connection.execute(sa.select(s.task_runs).order_by(s.task_runs.c.name))
            return [TaskRun(**row._mapping) for row in rows]

    def note_task_runs(self, runs: Sequence[TaskRun]) -> None:
        """Write how the tasks stand; tasks that are not named are forgotten."""
        with self._db.write() as connection:
            connection.execute(s.task_runs.delete())
            rows = [{name: getattr(run, name) for name in run.__slots__} for run in runs]
            if rows:
                connection.execute(s.task_runs.insert(), rows)

    def _count(self, table: sa.Table, wanted: sa.ColumnElement[bool]) -> int:
        with self._db.read() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(table).where(wanted)).scalar_one())


def _scoring(connection: sa.Connection) -> LastError | None:
    job = t.jobs.c
    query = sa.select(job.last_error, job.series_instance_uid, job.available_at).where(
        job.state.in_(("READY", "RUNNING", "PARKED")) & (job.last_error != "")
    )
    row = connection.execute(query.order_by(job.available_at.desc()).limit(1)).one_or_none()
    return None if row is None else LastError("scoring", row.last_error, row.series_instance_uid, None)


def _delivery(connection: sa.Connection) -> LastError | None:
    item = t.outbox.c
    query = sa.select(item.last_answer, item.target, item.next_attempt_at).where(
        item.state.in_([state.value for state in DeliveryState if state is not DeliveryState.DELIVERED]),
        item.last_answer != "",
    )
    row = connection.execute(query.order_by(item.next_attempt_at.desc()).limit(1)).one_or_none()
    return None if row is None else LastError("delivery", row.last_answer, row.target, None)


def _parked(connection: sa.Connection) -> LastError | None:
    item = t.series.c
    query = sa.select(item.parked_reason, item.series_instance_uid, item.state_since).where(
        item.state == SeriesState.PARKED.value
    )
    row = connection.execute(query.order_by(item.state_since.desc()).limit(1)).one_or_none()
    return None if row is None else LastError("parked", row.parked_reason, row.series_instance_uid, row.state_since)


def _quarantined(connection: sa.Connection) -> LastError | None:
    item = t.quarantine.c
    row = connection.execute(sa.select(item.reason, item.calling_ae, item.at).order_by(item.at.desc()).limit(1))
    found = row.one_or_none()
    return None if found is None else LastError("quarantine", found.reason, found.calling_ae, found.at)
