"""Puts generated series through the whole flow into a site: received, scored, pictured, reported, one delivered."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from dicom_qa_node.config import Config, Grades
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.series import Job, SeriesHeader, StoredInstance
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.phantom import ct_series, petct_study
from dicom_qa_node.phantom import write as write_phantom
from dicom_qa_node.report.report_builder import report_pending
from dicom_qa_node.score.image_files import write_heat_map, write_images
from dicom_qa_node.score.pipeline import score_series
from dicom_qa_node.spool.layout import SpoolLayout
from tests.stub_model import TinyScorer

__all__ = ["add_ct", "add_petct", "add_series"]


def add_ct(
    config: Config, database: Database, work: Path, *, seed: int = 3, rows: int = 96, slices: int = 16,
    scorer: Any = None, name: str = "Doe^Jane", quality: str = "routine",
) -> str:  # fmt: skip
    """Add a CT series and return its UID."""
    images = ct_series(seed, slices, rows, quality, spacing_mm=300 / slices)
    return add_series(config, database, work, images, scorer=scorer, name=name)


def add_petct(
    config: Config, database: Database, work: Path, *, seed: int = 12, rows: int = 128, scorer: Any = None
) -> str:
    """Add a CT and the PET that is fused with it; return the UID of the PET."""
    ct, pet = petct_study(seed, ct_slices=max(12, rows // 8), ct_rows=rows, pet_rows=96)
    for ds in ct:
        ds.PatientName, ds.SpecificCharacterSet = "Roe^Richard", "ISO_IR 192"
    pair = write_phantom(ct, work / "pair")
    return add_series(config, database, work, pet, pair=pair, scorer=scorer, name="Roe^Richard")


def add_series(
    config: Config, database: Database, work: Path, images: Sequence[Dataset], *, pair: Sequence[Path] = (),
    scorer: Any = None, name: str = "Doe^Jane",
) -> str:  # fmt: skip
    """Carry images through the node's own steps, but for the network and the wire; return the Series Instance UID."""
    layout, registry = SpoolLayout(config.spool_dir), Registry(database)
    layout.create()
    uid = str(images[0].SeriesInstanceUID)
    for ds in images:
        ds.PatientName = name
        ds.SpecificCharacterSet = "ISO_IR 192"
    paths = write_phantom(list(images), work / uid)
    registry.record(
        [_stored(layout, ds, path, number) for number, (ds, path) in enumerate(zip(images, paths, strict=True))]
    )
    progress = next(item for item in registry.receiving() if item.series_instance_uid == uid)
    assert registry.complete(progress, reason="every announced image is there")
    jobs = Jobs(database)
    job = _claimed(jobs, uid)
    verdict = score_series(paths, pair_paths=pair, scorer=scorer or TinyScorer())
    result = replace(verdict.result, series_instance_uid=uid, pair_series_uid=None)
    verdict = replace(verdict, result=result)
    folder = layout.pictures(uid, job.version)
    write_images(verdict, folder, Grades())
    height, width = verdict.pictures.shape[1:3]
    heat = np.fromfunction(
        lambda y, x: 255 * np.exp(-((y - height / 2) ** 2 + (x - width / 2) ** 2) / 500), (height, width)
    )
    write_heat_map(heat.astype(np.uint8), folder, 1)
    assert jobs.finish(job, result)
    outbox = Outbox(database)
    report_pending(outbox, registry, config.spool_dir, config)
    while (delivery := outbox.claim([target.name for target in config.deliver.targets])) is not None:
        outbox.delivered(delivery, "0x0000 success")
    return uid


def _claimed(jobs: Jobs, uid: str) -> Job:
    """Claim the job of a series; those that other tests left waiting wait on."""
    others: list[Job] = []
    while (job := jobs.claim("test")) is not None and job.series_instance_uid != uid:
        others.append(job)
    for other in others:
        jobs.release(other)
    assert job is not None
    return job


def _stored(layout: SpoolLayout, ds: Dataset, source: Path, number: int) -> StoredInstance:
    path = layout.instance(str(ds.SOPInstanceUID))
    path.write_bytes(source.read_bytes())
    at = utc_now() - dt.timedelta(seconds=60 - number * 0.1)
    return StoredInstance(
        sop_instance_uid=str(ds.SOPInstanceUID),
        sop_class_uid=str(ds.SOPClassUID),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        path=layout.relative(path),
        sha256="0" * 64,
        size_bytes=path.stat().st_size,
        received_at=at,
        calling_ae="GENERATED",
        association_id="a1",
        series=_facts(ds),
        instance_number=number + 1,
    )


def _facts(ds: Dataset) -> SeriesHeader:
    def text(keyword: str) -> str:
        return str(ds.get(keyword, "") or "")

    return SeriesHeader(
        series_instance_uid=text("SeriesInstanceUID"),
        study_instance_uid=text("StudyInstanceUID"),
        modality=text("Modality"),
        frame_of_reference_uid=text("FrameOfReferenceUID"),
        patient_id=text("PatientID"),
        patient_name=text("PatientName"),
        patient_birth_date=text("PatientBirthDate"),
        patient_sex=text("PatientSex"),
        accession_number=text("AccessionNumber"),
        study_date=text("StudyDate"),
        study_time=text("StudyTime"),
        study_description=text("StudyDescription"),
        series_number=text("SeriesNumber"),
        series_description=text("SeriesDescription"),
        body_part_examined=text("BodyPartExamined"),
        protocol_name=text("ProtocolName"),
        manufacturer=text("Manufacturer"),
        manufacturer_model_name=text("ManufacturerModelName"),
        station_name=text("StationName"),
        device_serial_number=text("DeviceSerialNumber"),
        institution_name=text("InstitutionName"),
    )
