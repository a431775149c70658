"""Results of QC phantoms in a database, without images: for the tests of calendar, charts, alerts and pages."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from dicom_qa_node.charts.chart_ingest import ChartIngest
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.acquisition_parameters import Acquisition
from dicom_qa_node.domain.qc_phantoms import PhantomEvidence, PhantomKind, QcPhantom
from dicom_qa_node.domain.results import Finding, ModelRef, SeriesKind, SeriesResult, Severity
from dicom_qa_node.domain.series import SeriesHeader, StoredInstance
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.quality_control.phantom_quantities import measurement
from dicom_qa_node.quality_control.tolerances import ToleranceSet, judge, outcome_of

__all__ = ["add_run", "phantom_result", "receive"]


def receive(database: Database, uid: str, *, station: str = "CT1", protocol: str = "QA Daily") -> None:
    """Make a series of one image complete."""
    facts = SeriesHeader(
        uid,
        "1.2.826.0.1",
        "CT",
        station_name=station,
        protocol_name=protocol,
        patient_name="QA^Daily",
        patient_id="QA1",
    )
    item = StoredInstance(
        sop_instance_uid=f"{uid}.1", sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1", path=f"instances/{uid}.1.dcm", sha256="0" * 64, size_bytes=1,
        received_at=database.now(), calling_ae="A", association_id="a", series=facts,
    )  # fmt: skip
    registry = Registry(database)
    registry.record([item])
    (progress,) = (found for found in registry.receiving() if found.series_instance_uid == uid)
    assert registry.complete(progress, reason="test")


def phantom_result(
    uid: str, values: dict[str, float], at: dt.datetime, *, phantom: str = "water", remark: str = ""
) -> SeriesResult:
    """Return the result of a water phantom, judged by the defaults."""
    kind = PhantomKind.WATER
    measured = judge([measurement(name, value) for name, value in values.items()], ToleranceSet.of(kind))
    found = QcPhantom(
        PhantomEvidence.APPEARANCE, '"qa" in PatientName', phantom, kind if phantom else "", remark=remark
    )
    if measured:
        found = QcPhantom(found.evidence, found.reason, phantom, kind, outcome_of(measured))
    finding = Finding("qc_phantom", Severity.INFO, "QC phantom: test.")
    return SeriesResult(
        uid, "CT", SeriesKind.CT, None, None, None, (), measured, (finding,), ModelRef("phantom analysis", "1", ""), 1,
        why=f"QC phantom, not scored: {found.reason}.", acquisition=Acquisition(at=at, utc_offset_min=0),
        qc_phantom=found,
    )  # fmt: skip


def add_run(database: Database, uid: str, result: SeriesResult, *, stations: Sequence[str] = ("CT1",)) -> None:
    """Carry a result into the log and the tables of the phantoms."""
    receive(database, uid, station=stations[0])
    jobs = Jobs(database)
    job = jobs.claim("test")
    assert job is not None
    assert job.series_instance_uid == uid
    assert jobs.finish(job, result)
    ChartIngest(database).take_in()
