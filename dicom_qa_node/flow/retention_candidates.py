"""Which spool files have served their time; the list from which retention deletes, file by file."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.dose_tables import KEPT_REPORTS, dose_reports
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.log_tables import GRADE_CODES, ReviewMark, log_rows
from dicom_qa_node.domain.delivery import DocumentKind
from dicom_qa_node.domain.results import Grade
from dicom_qa_node.domain.states import DeliveryState, SeriesState

__all__ = ["Retention"]

_UNDELIVERED = (DeliveryState.PENDING.value, DeliveryState.SENDING.value, DeliveryState.PARKED.value)
_ENDS = (SeriesState.DELIVERED.value, SeriesState.REPORTED.value, SeriesState.PARKED.value)
_WAITING = sa.exists().where(
    (t.outbox.c.series_instance_uid == t.series.c.series_instance_uid)
    & t.outbox.c.state.in_(_UNDELIVERED)
    & (t.outbox.c.kind == DocumentKind.REPORT)
)


class Retention:
    """Lists instances of finished series and forgets them once their files are gone.

    A series is finished when it is DELIVERED, or REPORTED with nothing left to deliver, or PARKED.
    Its row, its results, reports and history stay. A series whose latest version has one of the grades ``await_review``
    is kept until somebody has reviewed that version.
    """

    def __init__(self, database: Database, await_review: Sequence[str] = ()) -> None:
        self._db = database
        self._unreviewed = _unreviewed([Grade(grade) for grade in await_review])

    def expired(self, delivered_before: dt.datetime, parked_before: dt.datetime | None, limit: int = 1000) -> list[str]:
        """Return the spool paths of instances whose series was finished before these times, by state the oldest first.

        ``parked_before`` None leaves parked series alone. Series without images are not looked at, so a call costs in
        proportion to what it returns, and to the series with images that wait for a review.
        """
        ends = [(SeriesState.DELIVERED, delivered_before), (SeriesState.REPORTED, delivered_before)]
        if parked_before is not None:
            ends.append((SeriesState.PARKED, parked_before))
        found: list[str] = []
        with self._db.read() as connection:
            for state, before in ends:
                query = (
                    sa.select(t.instances.c.path)
                    .join(t.series, t.series.c.series_instance_uid == t.instances.c.series_instance_uid)
                    .where(_finished(state, before), ~self._unreviewed)
                    .order_by(t.series.c.state_since)
                )
                found += list(connection.execute(query.limit(limit - len(found))).scalars())
                if len(found) == limit:
                    break
        return found

    def awaiting_review(self, delivered_before: dt.datetime) -> int:
        """Return how many series have images only because nobody has reviewed them."""
        query = sa.select(sa.func.count()).select_from(t.series)
        with self._db.read() as connection:
            return sum(
                int(connection.execute(query.where(_finished(state, delivered_before), self._unreviewed)).scalar_one())
                for state in (SeriesState.DELIVERED, SeriesState.REPORTED)
            )

    def old_pictures(self, before: dt.datetime, limit: int = 1000) -> list[tuple[str, int]]:
        """Return the finished versions (Series Instance UID, version) scored before this time that have pictures.

        The oldest first; what has none any more is not looked at.
        """
        series = t.series.c
        query = (
            sa.select(t.results.c.series_instance_uid, t.results.c.version)
            .join(t.series, series.series_instance_uid == t.results.c.series_instance_uid)
            .where(t.results.c.scored_at < before, sa.text(t.PICTURED), t.plain(series.state).in_(_ENDS))
            .where(~_WAITING, ~self._unreviewed)
            .order_by(t.results.c.scored_at)
        )
        with self._db.read() as connection:
            return [(uid, int(version)) for uid, version in connection.execute(query.limit(limit))]

    def forget_pictures(self, versions: Sequence[tuple[str, int]]) -> int:
        """Note that the pictures of these versions were deleted; return how many."""
        result = t.results.c
        with self._db.write() as connection:
            for uid, version in versions:
                this = (result.series_instance_uid == uid) & (result.version == version)
                connection.execute(t.results.update().where(this).values(pictures=0))
        return len(versions)

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

    def dose_reports(self, before: dt.datetime, limit: int = 1000) -> list[str]:
        """Return the spool paths of dose reports received before this time whose study has no image in the spool.

        The oldest first; what was read from a report stays.
        """
        report = dose_reports.c
        images = sa.exists().where(
            (t.series.c.study_instance_uid == report.study_instance_uid) & (t.plain(t.series.c.kept) > 0)
        )
        query = sa.select(report.path).where(report.received_at < before, sa.text(KEPT_REPORTS), ~images)
        with self._db.read() as connection:
            return list(connection.execute(query.order_by(report.received_at).limit(limit)).scalars())

    def forget_dose_reports(self, paths: Sequence[str]) -> int:
        """Note that the files of these dose reports were deleted; return how many."""
        gone = dose_reports.update().where(dose_reports.c.path.in_(list(paths))).values(kept=False)
        with self._db.write() as connection:
            return connection.execute(gone).rowcount

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


def _finished(state: SeriesState, before: dt.datetime) -> sa.ColumnElement[bool]:
    """Series with images that are in this state since before this time and have nothing to deliver any more."""
    series = t.series.c
    finished = (series.state == state.value) & (series.state_since < before) & sa.text(t.KEPT)
    return finished if state is SeriesState.PARKED else finished & ~_WAITING


def _unreviewed(grades: Sequence[Grade]) -> sa.ColumnElement[bool]:
    """Series whose latest version has one of these grades and no review."""
    if not grades:
        return sa.false()
    row = log_rows.c
    # The index of the series is the right one, those of grade and review lead to millions of rows.
    return sa.exists().where(
        (row.series_instance_uid == t.series.c.series_instance_uid)
        & (row.latest == 1)
        & t.plain(row.grade).in_([GRADE_CODES[grade] for grade in grades])
        & (t.plain(row.review) == ReviewMark.NONE)
    )
