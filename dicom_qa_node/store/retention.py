"""Which spool files have served their time; the list from which retention deletes, file by file."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

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
        """Return the spool paths of instances whose series was finished before these times."""
        series = t.series.c
        waiting = sa.exists().where(
            (t.outbox.c.series_instance_uid == series.series_instance_uid)
            & t.outbox.c.state.in_(_UNDELIVERED)
            & (t.outbox.c.kind == DocumentKind.REPORT)
        )
        delivered = series.state.in_([SeriesState.DELIVERED.value, SeriesState.REPORTED.value]) & ~waiting
        finished = (delivered & (series.state_since < delivered_before)) | (
            (series.state == SeriesState.PARKED.value) & (series.state_since < parked_before)
        )
        query = (
            sa.select(t.instances.c.path)
            .join(t.series, series.series_instance_uid == t.instances.c.series_instance_uid)
            .where(finished)
            .order_by(t.instances.c.instance_id)
            .limit(limit)
        )
        with self._db.read() as connection:
            return list(connection.execute(query).scalars())

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
            sa.select(t.instances.c.series_instance_uid, sa.func.count().label("gone"))
            .where(wanted, ~t.instances.c.conflict)
            .group_by(t.instances.c.series_instance_uid)
        )
        series = t.series.c
        with self._db.write() as connection:
            for uid, gone in connection.execute(counted).all():
                connection.execute(
                    t.series.update()
                    .where(series.series_instance_uid == uid)
                    .values(received=series.received - gone, forgotten=series.forgotten + gone)
                )
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
