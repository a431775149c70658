"""Persons' decisions whether a series shows a phantom or a patient; the latest one holds, none is ever changed."""

from __future__ import annotations

import sqlalchemy as sa

from dicom_qa_node.db import phantom_tables as p
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.qc_phantoms import SubjectDecision

__all__ = ["SubjectDecisions", "add_decision", "restore_decision"]

_LONGEST = 500


class SubjectDecisions:
    """Reads and adds decisions."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def of(self, series_instance_uid: str) -> list[SubjectDecision]:
        """Return the decisions about a series, the latest first."""
        with self._db.read() as connection:
            return [_decision(row) for row in connection.execute(_query(series_instance_uid))]

    def latest(self, series_instance_uid: str) -> SubjectDecision | None:
        """Return the decision that holds, None if nobody has decided."""
        with self._db.read() as connection:
            row = connection.execute(_query(series_instance_uid).limit(1)).one_or_none()
            return None if row is None else _decision(row)


def add_decision(connection: sa.Connection, series_instance_uid: str, decision: SubjectDecision) -> None:
    """Add a decision in the caller's transaction.

    Raises
    ------
    Permanent
        There is no reason; the text says so.
    """
    reason = decision.reason.strip()[:_LONGEST]
    if not reason:
        raise Permanent("give a reason: it stands in the report and in the audit log")
    _insert(connection, series_instance_uid, decision, reason)


def restore_decision(connection: sa.Connection, series_instance_uid: str, decision: SubjectDecision) -> None:
    """Write back a decision that a result was made under, unless a later one is known."""
    later = (p.decisions.c.series_instance_uid == series_instance_uid) & (p.decisions.c.at >= decision.at)
    if connection.execute(sa.select(p.decisions.c.decision_id).where(later)).first() is None:
        _insert(connection, series_instance_uid, decision, decision.reason)


def _insert(connection: sa.Connection, series_instance_uid: str, decision: SubjectDecision, reason: str) -> None:
    row = {"series_instance_uid": series_instance_uid, "phantom": decision.phantom, "author": decision.author}
    connection.execute(p.decisions.insert().values(**row, reason=reason, at=decision.at))


def _query(series_instance_uid: str) -> sa.Select[tuple[object, ...]]:
    same = p.decisions.c.series_instance_uid == series_instance_uid
    return sa.select(p.decisions).where(same).order_by(p.decisions.c.at.desc(), p.decisions.c.decision_id.desc())


def _decision(row: sa.Row[tuple[object, ...]]) -> SubjectDecision:
    return SubjectDecision(phantom=row.phantom, author=row.author, at=row.at, reason=row.reason)
