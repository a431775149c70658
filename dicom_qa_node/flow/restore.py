"""Writes back what a lost database knew about reported versions of series, from their result archives and reports."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database, insert_ignore
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.dose.records import record_series_dose
from dicom_qa_node.flow.jobs import result_row
from dicom_qa_node.flow.queue import cancel_jobs
from dicom_qa_node.flow.state_machine import transition
from dicom_qa_node.quality_control.decisions import restore_decision
from dicom_qa_node.quality_log.rows import add_log_row
from dicom_qa_node.spool.result_archive import ResultArchive

__all__ = ["Restored", "ResultRestorer"]

_ACTOR = "db rebuild"
_ANY = tuple(SeriesState)


class Restored(Enum):
    """What became of a result archive."""

    KNOWN = "known"
    EARLIER = "earlier"
    LATEST = "latest"
    OUTDATED = "outdated"


class ResultRestorer:
    """Restores version by version, in any order; each is one transaction, and a second time changes nothing."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def restore(self, archive: ResultArchive) -> Restored:
        """Write result, report, documents and deliveries of a version, and move its series where it stood.

        A series whose images are still here is delivered again under the same UIDs: whether the target has it is not
        known. Where retention has removed the images everything was delivered, so nothing is sent.

        Returns
        -------
        Restored
            KNOWN: the report has its row, nothing was written. EARLIER: the series has a later version. LATEST: the
            series stands in REPORTED. OUTDATED: images came after it, and the series is in RECEIVING again.
        """
        with self._db.write() as connection:
            if _has_report(connection, archive.report.sop_instance_uid):
                return Restored.KNOWN
            _ensure_series(connection, archive)
            _restore_result(connection, archive)
            _restore_reports(connection, archive)
            here, late = _images(connection, archive)
            if here:
                _restore_deliveries(connection, archive)
            return _place(connection, archive, here, late)

    def add_report(self, report: ReportRef) -> bool:
        """Write the row of a report that has no result archive; the next verdict on its series is a later version.

        Returns False, and writes nothing, if the report has its row or its series is unknown.
        """
        same = t.series.c.series_instance_uid == report.series_instance_uid
        with self._db.write() as connection:
            known = connection.execute(sa.select(t.series.c.version).where(same)).scalar_one_or_none()
            if known is None or _has_report(connection, report.sop_instance_uid):
                return False
            insert_ignore(connection, t.reports, [asdict(report)])
            if known <= report.version and not _has_result(connection, report.series_instance_uid, known):
                connection.execute(t.series.update().where(same).values(version=report.version + 1))
                cancel_jobs(connection, report.series_instance_uid)
                transition(
                    connection, report.series_instance_uid, _ANY, SeriesState.RECEIVING, version=None,
                    reason=f"version {report.version} was reported before", actor=_ACTOR, at=utc_now(),
                )  # fmt: skip
            return True

    def reported(self, paths: list[str]) -> set[str]:
        """Return which of these reports, by their path, have a row."""
        with self._db.read() as connection:
            return set(connection.execute(sa.select(t.reports.c.path).where(t.reports.c.path.in_(paths))).scalars())


def _has_report(connection: sa.Connection, uid: str) -> bool:
    query = sa.select(t.reports.c.sop_instance_uid).where(t.reports.c.sop_instance_uid == uid)
    return connection.execute(query).first() is not None


def _has_result(connection: sa.Connection, uid: str, version: int) -> bool:
    same = (t.results.c.series_instance_uid == uid) & (t.results.c.version == version)
    return connection.execute(sa.select(t.results.c.result_id).where(same)).first() is not None


def _ensure_series(connection: sa.Connection, archive: ResultArchive) -> None:
    """Make the row of a series of which no image is left."""
    row = asdict(archive.facts) | {
        "calling_ae": archive.sender.ae_title,
        "state": SeriesState.RECEIVING.value,
        "state_since": archive.scored_at,
        "version": archive.report.version,
        "received": 0,
        "expected": {},
        "first_received_at": archive.images_until,
        "last_received_at": archive.images_until,
    }
    insert_ignore(connection, t.series, [row])


def _restore_result(connection: sa.Connection, archive: ResultArchive) -> None:
    uid, version, result, at = _uid(archive), archive.report.version, archive.result, archive.scored_at
    if _has_result(connection, uid, version):
        return
    row = result_row(uid, version, result, archive.facts, at)
    number = int(connection.execute(t.results.insert().values(**row).returning(t.results.c.result_id)).scalar_one())
    add_log_row(connection, number, archive.facts, version, result, at)
    record_series_dose(connection, archive.facts, version, result, at)
    if result.subject_decision is not None:
        restore_decision(connection, uid, result.subject_decision)


def _restore_reports(connection: sa.Connection, archive: ResultArchive) -> None:
    insert_ignore(
        connection, t.reports, [asdict(item) for item in (archive.report, *(d for d, _ in archive.documents))]
    )
    rows = [
        {"report_uid": archive.report.sop_instance_uid, "target": target, "reason": reason}
        for target, reason in archive.unrouted
    ]
    insert_ignore(connection, t.unrouted, rows)


def _restore_deliveries(connection: sa.Connection, archive: ResultArchive) -> None:
    now = utc_now()
    row: dict[str, Any] = {
        "series_instance_uid": _uid(archive),
        "study_instance_uid": archive.facts.study_instance_uid,
        "state": DeliveryState.PENDING.value,
        "sender_ae": archive.sender.ae_title,
        "sender_host": archive.sender.host,
        "created_at": now,
        "next_attempt_at": now,
    }
    for document, targets in ((archive.report, archive.targets), *archive.documents):
        own = row | {"report_uid": document.sop_instance_uid, "kind": document.kind}
        insert_ignore(connection, t.outbox, [own | {"target": target} for target in targets])


def _images(connection: sa.Connection, archive: ResultArchive) -> tuple[int, int]:
    """Return how many images of the version are here, and how many came after it."""
    row = t.instances.c
    late = row.received_at > archive.images_until
    query = sa.select(sa.func.count(), sa.func.count().filter(late))
    count, after = connection.execute(query.where(row.series_instance_uid == _uid(archive), ~row.conflict)).one()
    here = int(count) - int(after)
    # Two receivers may record in another order than they received.
    return min(here, archive.images), int(after) + max(0, here - archive.images)


def _place(connection: sa.Connection, archive: ResultArchive, here: int, late: int) -> Restored:
    uid, version = _uid(archive), archive.report.version
    same = t.series.c.series_instance_uid == uid
    known = int(connection.execute(sa.select(t.series.c.version).where(same)).scalar_one())
    if known > version:
        return Restored.EARLIER
    cancel_jobs(connection, uid)
    state, next_version = (SeriesState.RECEIVING, version + 1) if late else (SeriesState.REPORTED, version)
    pair = archive.result.pair_series_uid
    values = {"version": next_version, "forgotten": archive.images - here, "pair_series_uid": pair}
    transition(
        connection, uid, _ANY, state, version=None, reason=f"report {archive.report.sop_instance_uid} is in the spool",
        actor=_ACTOR, at=utc_now(), values=values,
    )  # fmt: skip
    return Restored.OUTDATED if late else Restored.LATEST


def _uid(archive: ResultArchive) -> str:
    return archive.report.series_instance_uid
