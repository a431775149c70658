"""Series that came again unchanged: noted by the receiver, and their reports sent again to the targets that want it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database, insert_ignore
from dicom_qa_node.db.orthanc_tables import repeated_series
from dicom_qa_node.db.tables import log_event
from dicom_qa_node.domain.series import RepeatedInstance
from dicom_qa_node.domain.states import DeliveryState, SeriesState

__all__ = ["note_repeats", "resend_reports"]

_AT_ONCE = 50
_REPORTED = (SeriesState.REPORTED.value, SeriesState.DELIVERED.value)


def note_repeats(connection: sa.Connection, items: Iterable[RepeatedInstance], skew: dt.timedelta) -> None:
    """Note when each of these series last came again, in the caller's transaction."""
    latest: dict[str, dt.datetime] = {}
    for item in items:
        at = item.at + skew
        latest[item.series_instance_uid] = max(at, latest.get(item.series_instance_uid, at))
    rows = [{"series_instance_uid": uid, "last_at": at} for uid, at in sorted(latest.items())]
    insert_ignore(connection, repeated_series, rows)
    for row in rows:
        same = repeated_series.c.series_instance_uid == row["series_instance_uid"]
        connection.execute(repeated_series.update().where(same).values(last_at=row["last_at"]))


def resend_reports(database: Database, targets: Sequence[str], quiet_s: float, now: dt.datetime) -> int:
    """Send reports once more whose series has come again and is quiet since ``quiet_s``; return how many deliveries.

    Of a series that is still on its way nothing is sent again: its report comes anyway. Neither is a report that is on
    its way to a target, or given up there.
    """
    quiet_at = now - dt.timedelta(seconds=quiet_s)
    sent = 0
    with database.write() as connection:
        due = (
            sa.select(repeated_series.c.series_instance_uid)
            .where(repeated_series.c.last_at <= quiet_at)
            .order_by(repeated_series.c.last_at)
            .limit(_AT_ONCE)
            .with_for_update(skip_locked=True)
        )
        for uid in connection.execute(due).scalars().all():
            sent += _resend(connection, uid, targets, now)
            connection.execute(repeated_series.delete().where(repeated_series.c.series_instance_uid == uid))
    return sent


def _resend(connection: sa.Connection, uid: str, targets: Sequence[str], now: dt.datetime) -> int:
    query = sa.select(t.series.c.state, t.series.c.version).where(t.series.c.series_instance_uid == uid)
    series = connection.execute(query).one_or_none()
    if series is None or series.state not in _REPORTED:
        return 0
    version = sa.select(t.reports.c.sop_instance_uid).where(
        t.reports.c.series_instance_uid == uid, t.reports.c.version == series.version
    )
    done = (
        (t.outbox.c.series_instance_uid == uid)
        & t.outbox.c.report_uid.in_(version)
        & t.outbox.c.target.in_(list(targets))
        & (t.outbox.c.state == DeliveryState.DELIVERED.value)
    )
    values = {"state": DeliveryState.PENDING.value, "next_attempt_at": now, "created_at": now, "delivered_at": None}
    count = connection.execute(t.outbox.update().where(done).values(**values)).rowcount
    if count:
        reason = f"the series came again: {count} {'document' if count == 1 else 'documents'} sent again"
        log_event(connection, uid, series.version, series.state, series.state, reason, "deliver", now)
    return int(count)
