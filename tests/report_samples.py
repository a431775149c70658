"""Small stored series and verdicts on them, made in the test: what report and delivery need and no more."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    PositronEmissionTomographyImageStorage,
)

from dicom_qa_node.deliver.targets.base import DeliveryItem
from dicom_qa_node.domain.codes import Code
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.domain.results import (
    DimensionScore,
    Finding,
    Grade,
    Measurement,
    ModelRef,
    QualityDimension,
    RatedPart,
    RatedPartKind,
    ScoredSlice,
    SeriesKind,
    SeriesResult,
    Severity,
    SourceImage,
)
from dicom_qa_node.domain.series import SeriesHeader, StoredInstance

T0 = dt.datetime(2026, 1, 5, 8, 0, 0, 123456, tzinfo=dt.UTC)
MODEL = ModelRef("ms_iqa_small", "1.0", hashlib.sha256(b"weights").hexdigest())
STUDY, FRAME = "1.2.826.0.1.3680043.10.1500.1", "1.2.826.0.1.3680043.10.1500.9"


def write_series(spool: Path, number: int = 1, modality: str = "CT", slices: int = 9, **changes: object) -> list:
    """Write a series as the spool holds it and return its stored instances; ``changes`` overwrite elements."""
    return [_write(spool, _image(number, modality, index, **changes)) for index in range(slices)]


def write_multiframe(spool: Path, number: int = 1, frames: int = 9) -> list[StoredInstance]:
    image = _image(number, "CT", 0, rows=8)
    image.SOPClassUID = EnhancedCTImageStorage
    image.NumberOfFrames = frames
    image.PixelData = bytes(8 * 8 * 2 * frames)
    shared = Dataset()
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = image.PixelSpacing, image.SliceThickness
    orientation = Dataset()
    orientation.ImageOrientationPatient = image.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    image.SharedFunctionalGroupsSequence = [shared]
    for keyword in ("PixelSpacing", "SliceThickness", "ImageOrientationPatient", "ImagePositionPatient"):
        delattr(image, keyword)
    return [_write(spool, image)]


def verdict(instances: list[StoredInstance], kind: SeriesKind = SeriesKind.CT, **changes: object) -> SeriesResult:
    """Return a full verdict: seven slices, four measurements, two findings."""
    chosen = instances[:7] if len(instances) > 1 else instances * 7
    values: dict[str, object] = {
        "series_instance_uid": instances[0].series.series_instance_uid,
        "modality": instances[0].series.modality,
        "kind": kind,
        "score": 2.83,
        "interval": (2.41, 3.2),
        "grade": Grade.DIAGNOSTIC,
        "slices": tuple(_slice(item, index, len(instances) == 1) for index, item in enumerate(chosen)),
        "measurements": MEASUREMENTS,
        "findings": (
            Finding(
                "noise_high", Severity.WARNING, "The noise is above the usual range.", "31 HU, usual 5–20 HU",
                Code("130578", "DCM", "Poor SNR"), (instances[-1].sop_instance_uid,),
            ),
            Finding("missing_slices", Severity.INFO, "Two slices of the announced count are missing."),
        ),
        "model": MODEL,
        "instances_used": len(instances),
        "stack_name": "chest",
    }  # fmt: skip
    return SeriesResult(**(values | changes))  # type: ignore[arg-type]


def not_rated(instances: list[StoredInstance]) -> SeriesResult:
    finding = Finding("out_of_domain", Severity.ERROR, "The series is a localizer; the model was not made for it.")
    return verdict(instances, score=None, interval=None, grade=None, slices=(), findings=(finding,))


def with_parts(pet: list[StoredInstance], ct: list[StoredInstance]) -> SeriesResult:
    """Return a verdict on a PET with its CT: the PET decides, the CT and the display are rated beside it."""
    noise = DimensionScore(QualityDimension.NOISE, 1.7, "41 % in the body, 25 % is routine")
    resolution = DimensionScore(QualityDimension.RESOLUTION, None, reason="pixels of 8 mm")
    rated = RatedPart(
        RatedPartKind.PET, 1.7, (1.1, 2.3), Grade.LIMITED, Grade.NON_DIAGNOSTIC, (noise, resolution),
        QualityDimension.NOISE, interval_origin="a convention", algorithm=ModelRef("closed formulas", "1", ""),
        series_instance_uid=pet[0].series.series_instance_uid, images=_sources(pet[:7]),
    )  # fmt: skip
    beside = RatedPart(
        RatedPartKind.CT, 1.2, (0.7, 1.7), Grade.LIMITED, Grade.NON_DIAGNOSTIC, counted=2.0,
        counted_reason="the noise of the CT that goes with a PET counts as at least 2.0", algorithm=MODEL,
        series_instance_uid=ct[0].series.series_instance_uid, images=_sources(ct[:3]),
    )  # fmt: skip
    display = RatedPart(RatedPartKind.DISPLAY, None, reason="not rated: the model was not made for it")
    return verdict(
        pet, SeriesKind.PETCT, score=1.7, interval=(1.1, 2.3), grade=Grade.LIMITED, grade_low=Grade.NON_DIAGNOSTIC,
        rated_parts=(rated, beside, display), decided_by=RatedPartKind.PET, stack_name="",
        why="Limited by the noise of the PET (1.7, 41 % in the body, 25 % is routine); longer beds usually help.",
        pair_series_uid=ct[0].series.series_instance_uid,
    )  # fmt: skip


def implausible(pet: list[StoredInstance]) -> SeriesResult:
    """Return a PET that breaks a rule of plausibility: its part scores 0, the series has no score."""
    code = Code("F130", "99DQAN", "PET implausible")
    finding = Finding("pet_implausible", Severity.ERROR, "The PET cannot be that of this patient.", "flat: 0.1", code)
    dimension = DimensionScore(QualityDimension.PLAUSIBILITY, 0.0, "flat: SD over mean 0.10")
    part = RatedPart(
        RatedPartKind.PET, 0.0, (0.0, 0.0), Grade.NON_DIAGNOSTIC, None, (dimension,), QualityDimension.PLAUSIBILITY,
        reason="implausible: the PET is flat", algorithm=ModelRef("closed formulas", "1", ""), images=_sources(pet[:1]),
    )  # fmt: skip
    return verdict(
        pet, SeriesKind.PT, score=None, interval=None, grade=None, slices=(), findings=(finding,), rated_parts=(part,),
        stack_name="", why="No score: the PET is implausible (flat): the uptake hardly varies over the body.",
    )  # fmt: skip


def _sources(instances: list[StoredInstance]) -> tuple[SourceImage, ...]:
    return tuple(SourceImage(item.sop_instance_uid, item.sop_class_uid) for item in instances)


def shipped(path: Path, report: ReportRef, **changes: object) -> DeliveryItem:
    """Return what a target is given for a report whose file is at ``path``."""
    return DeliveryItem(path.parent, replace(report, path=path.name), **changes)  # type: ignore[arg-type]


MEASUREMENTS = (
    Measurement("noise_hu", "Global noise level", 31.25, "[hnsf'U]", "lower is better", None, 5, 20, "", "9 slices"),
    Measurement("snr", "Signal to noise ratio", 12.5, "1", code=Code("111787", "DCM", "Signal to Noise Ratio"), low=10),
    Measurement("global_noise_level_liver_hu", "Noise in the liver", None, "[hnsf'U]", not_applicable="no liver"),
    Measurement("ratio", "A ratio that came out infinite", float("inf"), "1"),
)


def _slice(item: StoredInstance, index: int, multiframe: bool) -> ScoredSlice:
    frame = index + 1 if multiframe else None
    return ScoredSlice(
        item.sop_instance_uid, item.sop_class_uid, index, -20.0 + 5 * index, 2.5 + index / 10, 1 / 7, "body", frame
    )


def _image(number: int, modality: str, index: int, rows: int = 16, **changes: object) -> Dataset:
    image = Dataset()
    image.SpecificCharacterSet = changes.pop("SpecificCharacterSet", "ISO_IR 100")
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    is_ct = modality == "CT"
    image.SOPClassUID = CTImageStorage if is_ct else PositronEmissionTomographyImageStorage
    image.StudyInstanceUID, image.SeriesInstanceUID = STUDY, f"{STUDY}.{number}"
    image.SOPInstanceUID = f"{STUDY}.{number}.{index + 1}"
    image.FrameOfReferenceUID, image.Modality = FRAME, modality
    image.PatientName, image.PatientID = "Sample^Sally", "SAMPLE-7"
    image.PatientBirthDate, image.PatientSex, image.PatientAge = "19500102", "F", "076Y"
    image.StudyDate, image.StudyTime, image.StudyID = "20260105", "071500", "S1"
    image.AccessionNumber, image.ReferringPhysicianName = "ACC-12", "Referrer^Rita"
    image.StudyDescription, image.SeriesNumber, image.InstanceNumber = "CT thorax", number, index + 1
    image.Manufacturer, image.ManufacturerModelName = "ACME", "Scan 5"
    image.StationName, image.InstitutionName, image.DeviceSerialNumber = "CT7", "Sample Hospital", "55-1"
    image.ImagePositionPatient, image.ImageOrientationPatient = [-40, -40, -20 + 5 * index], [1, 0, 0, 0, 1, 0]
    image.PixelSpacing, image.SliceThickness = [0.75, 0.75], 5
    image.Rows, image.Columns, image.SamplesPerPixel = rows, rows, 1
    image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 1
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    image.RescaleIntercept, image.RescaleSlope = 0, 1
    image.PixelData = np.full((rows, rows), index, np.int16).tobytes()
    for keyword, value in changes.items():
        setattr(image, keyword, value)
    return image


def _write(spool: Path, image: Dataset) -> StoredInstance:
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = spool / "instances" / f"{image.SOPInstanceUID}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    facts = SeriesHeader(
        str(image.SeriesInstanceUID), str(image.StudyInstanceUID), image.Modality,
        frame_of_reference_uid=FRAME, patient_name=str(image.PatientName), station_name=str(image.StationName),
    )  # fmt: skip
    return StoredInstance(
        sop_instance_uid=str(image.SOPInstanceUID),
        sop_class_uid=str(image.SOPClassUID),
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
        path=str(path.relative_to(spool)),
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        received_at=T0,
        calling_ae="SCANNER",
        association_id="a1",
        series=facts,
        instance_number=int(image.InstanceNumber),
    )
