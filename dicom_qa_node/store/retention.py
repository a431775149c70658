"""Which spool files have served their time; the list from which retention deletes, file by file."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.records import DeliveryState, DocumentKind, SeriesState
from dicom_qa_node.store import tables as t
from dicom_qa_node.store.engine import Database

__all__ = ["Retention"]

_UNDELIVERED = (DeliveryState.PENDING.value, DeliveryState.SENDING.value, DeliveryState.PARKED.value)


class Retention:
    """Lists instances of finished series and forgets them once their files are gone.

    A series is finished when it is DELIVERED, or REPORTED with nothing left to deliver, or PARKED.
    Its row, its results, reports and history stay.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    def expired(self, delivered_before: dt.datetime, parked_before: dt.datetime, limit: int = 1000) -> list[str]:
        """Return the spool paths of instances whose series was finished before these times, by state the oldest first.

        Series without images are not looked at, so a call costs in proportion to what it returns.
        """
        ends = (
            (SeriesState.DELIVERED, delivered_before),
            (SeriesState.REPORTED, delivered_before),
            (SeriesState.PARKED, parked_before),
        )
        found: list[str] = []
        with self._db.read() as connection:
            for state, before in ends:
                query = _finished(state, before).limit(limit - len(found))
                found += connection.execute(query).scalars()
                if len(found) == limit:
                    break
        return found

    def versions(self, paths: Sequence[str]) -> list[tuple[str, int]]:
        """Return every scored version of the series that these instances belong to."""
        own = sa.select(t.instances.c.series_instance_uid).where(t.instances.c.path.in_(list(paths)))
        query = sa.select(t.results.c.series_instance_uid, t.results.c.version).where(
            t.results.c.series_instance_uid.in_(own)
        )
        with self._db.read() as connection:
            return [(uid, int(version)) for uid, version in connection.execute(query)]

    def forget(self, paths: Sequence[str]) -> int:
        """Remove the rows of instances whose files were deleted; return how many.

        Their series count them as forgotten, no longer as received: what comes again is counted from there.
        """
        wanted = t.instances.c.path.in_(list(paths))
        counted = (
            sa.select(
                t.instances.c.series_instance_uid,
                sa.func.count().label("files"),
                sa.func.count().filter(~t.instances.c.conflict).label("gone"),
            )
            .where(wanted)
            .group_by(t.instances.c.series_instance_uid)
        )
        series = t.series.c
        with self._db.write() as connection:
            for uid, files, gone in connection.execute(counted).all():
                changes = {
                    "kept": series.kept - files, "received": series.received - gone,
                    "forgotten": series.forgotten + gone,
                }  # fmt: skip
                connection.execute(t.series.update().where(series.series_instance_uid == uid).values(**changes))
            return connection.execute(t.instances.delete().where(wanted)).rowcount

    def refused(self, before: dt.datetime, limit: int = 1000) -> list[str]:
        """Return the spool paths of objects that were refused on receiving before this time, the oldest first.

        What was acknowledged and found damaged later lies in quarantine as well, without a sender: it stays.
        """
        item = t.quarantine.c
        query = sa.select(item.path).where(item.at < before, item.calling_ae != "")
        with self._db.read() as connection:
            return list(connection.execute(query.order_by(item.at).limit(limit)).scalars())

    def forget_refused(self, paths: Sequence[str]) -> int:
        """Remove the rows of refused objects whose files were deleted; return how many."""
        with self._db.write() as connection:
            gone = t.quarantine.delete().where(t.quarantine.c.path.in_(list(paths)))
            return connection.execute(gone).rowcount


def _finished(state: SeriesState, before: dt.datetime) -> sa.Select[Any]:
    """Select the paths of the instances of series in this state since before this time, the oldest first."""
    series = t.series.c
    waiting = sa.exists().where(
        (t.outbox.c.series_instance_uid == series.series_instance_uid)
        & t.outbox.c.state.in_(_UNDELIVERED)
        & (t.outbox.c.kind == DocumentKind.REPORT)
    )
    query = (
        sa.select(t.instances.c.path)
        .join(t.series, series.series_instance_uid == t.instances.c.series_instance_uid)
        .where(series.state == state.value, series.state_since < before, sa.text(t.KEPT))
        .order_by(series.state_since)
    )
    return query if state is SeriesState.PARKED else query.where(~waiting)
