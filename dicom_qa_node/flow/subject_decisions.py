"""A person's decision that a series shows a phantom or a patient, and the new verdict that it asks for."""

from __future__ import annotations

from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.qc_phantoms import SubjectDecision
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.petct_pairing import has_images
from dicom_qa_node.flow.queue import lock_series
from dicom_qa_node.flow.registry import requeue
from dicom_qa_node.quality_control.decisions import add_decision

__all__ = ["decide_subject"]

_JUDGED = (SeriesState.SCORED, SeriesState.REPORTED, SeriesState.DELIVERED, SeriesState.PARKED)


def decide_subject(database: Database, series_instance_uid: str, decision: SubjectDecision) -> bool:
    """Write a decision and queue the series again as a new version, in one transaction.

    A series that is still arriving or waits is judged by the decision when its turn comes. Returns False, and writes
    nothing, while the series is being scored, or where it is unknown.

    Raises
    ------
    Permanent
        There is no reason, or retention has removed the images.
    """
    with database.write() as connection:
        row = lock_series(connection, series_instance_uid)
        if row is None or row.state == SeriesState.SCORING:
            return False
        add_decision(connection, series_instance_uid, decision)
        if SeriesState(row.state) not in _JUDGED:
            return True
        if not has_images(connection, series_instance_uid):
            raise Permanent("the images are no longer in the spool: let the scanner or the archive send them again")
        words = "a QC phantom" if decision.phantom else "a patient"
        return requeue(connection, series_instance_uid, f"marked as {words}", decision.author, decision.at)
