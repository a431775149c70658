"""Identity and DICOM headers of generated images."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_qa_node.domain.uids import derived_uid
from dicom_qa_node.phantom.patient import draw_patient


@dataclass(frozen=True)
class Scanner:
    """The equipment attributes (PS3.3 C.7.5.1) that the quality log groups by."""

    manufacturer: str = "Generated"
    model: str = "Phantom 64"
    station: str = "GEN01"
    serial: str = "10001"
    software: str = "1.0"
    institution: str = "Generated Hospital"


@dataclass(frozen=True)
class Identity:
    """Patient and study attributes shared by the series of one study."""

    study_uid: str
    frame_of_reference_uid: str
    patient_id: str
    patient_name: str
    birth_date: str
    sex: str
    age: str
    height_m: float
    weight_kg: float
    accession_number: str
    study_id: str
    start: dt.datetime
    study_description: str = ""
    body_part: str = "CHEST"
    protocol: str = "Chest Abdomen"


def identity_of(seed: int, purpose: str = "ct", start: dt.datetime | None = None) -> Identity:
    """The identity of a seed: same seed and purpose, same patient and UIDs.

    Without ``start`` the study lies on a day of the seed's in 2024.
    """
    patient = draw_patient(seed)
    begin = start or dt.datetime(2024, 1, 8, 8, 0) + dt.timedelta(days=seed % 350, minutes=11 * (seed % 40))  # noqa: DTZ001
    born = begin - dt.timedelta(days=365.25 * patient.age_years + 40)
    return Identity(
        study_uid=phantom_uid(seed, purpose, "study"),
        frame_of_reference_uid=phantom_uid(seed, purpose, "frame of reference"),
        patient_id=f"PH{seed:06d}",
        patient_name=f"Generated^Seed {seed}",
        birth_date=born.strftime("%Y%m%d"),
        sex=patient.sex,
        age=f"{patient.age_years:03d}Y",
        height_m=patient.height_m,
        weight_kg=patient.weight_kg,
        accession_number=f"A{seed:06d}",
        study_id=str(seed % 10_000),
        start=begin,
    )


def phantom_uid(seed: int, *parts: object) -> str:
    """A UID under 2.25 that depends on nothing but the seed and the parts (PS3.5 B.2)."""
    return derived_uid("phantom", str(seed), *(str(part) for part in parts))


IMPLEMENTATION_UID = "2.25.98723498734982734987239847239847"
IMPLEMENTATION_VERSION = "QAPHANTOM_1"


def start_image(
    sop_class_uid: str, sop_instance_uid: str, identity: Identity, scanner: Scanner, modality: str
) -> Dataset:
    """A data set with file meta, SOP common, patient, study, frame of reference and equipment modules."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.FileMetaInformationVersion = b"\x00\x01"
    ds.file_meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    ds.file_meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    ds.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = sop_class_uid
    ds.SOPInstanceUID = sop_instance_uid
    ds.Modality = modality
    _patient_and_study(ds, identity)
    ds.FrameOfReferenceUID = identity.frame_of_reference_uid
    ds.PositionReferenceIndicator = ""
    ds.Manufacturer = scanner.manufacturer
    ds.ManufacturerModelName = scanner.model
    ds.StationName = scanner.station
    ds.DeviceSerialNumber = scanner.serial
    ds.SoftwareVersions = scanner.software
    ds.InstitutionName = scanner.institution
    return ds


def _patient_and_study(ds: Dataset, identity: Identity) -> None:
    ds.PatientName = identity.patient_name
    ds.PatientID = identity.patient_id
    ds.PatientBirthDate = identity.birth_date
    ds.PatientSex = identity.sex
    ds.PatientAge = identity.age
    ds.PatientSize = f"{identity.height_m:.2f}"
    ds.PatientWeight = f"{identity.weight_kg:.1f}"
    ds.StudyInstanceUID = identity.study_uid
    ds.StudyDate = identity.start.strftime("%Y%m%d")
    ds.StudyTime = identity.start.strftime("%H%M%S")
    ds.ReferringPhysicianName = ""
    ds.StudyID = identity.study_id
    ds.AccessionNumber = identity.accession_number
    if identity.study_description:
        ds.StudyDescription = identity.study_description


def add_series(
    ds: Dataset, series_uid: str, number: int, description: str, identity: Identity, begin: dt.datetime
) -> None:
    """General series module (PS3.3 C.7.3.1)."""
    ds.SeriesInstanceUID = series_uid
    ds.SeriesNumber = number
    ds.SeriesDate = begin.strftime("%Y%m%d")
    ds.SeriesTime = begin.strftime("%H%M%S")
    ds.SeriesDescription = description
    ds.ProtocolName = identity.protocol
    ds.BodyPartExamined = identity.body_part


def add_times(ds: Dataset, moment: dt.datetime) -> None:
    """When the data were acquired and the pixels made."""
    date, time = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")
    ds.AcquisitionDate, ds.AcquisitionTime = date, time
    ds.ContentDate, ds.ContentTime = date, time


def add_plane(
    ds: Dataset,
    position_mm: Sequence[float],
    orientation: Sequence[float],
    spacing_mm: tuple[float, float],
    thickness_mm: float,
) -> None:
    """Image plane module (PS3.3 C.7.6.2); numbers fit the 16 bytes of a DS."""
    ds.ImagePositionPatient = [decimal(value) for value in position_mm]
    ds.ImageOrientationPatient = [decimal(value) for value in orientation]
    ds.PixelSpacing = [decimal(value) for value in spacing_mm]
    ds.SliceThickness = decimal(thickness_mm)


def add_pixels(ds: Dataset, stored: npt.NDArray[Any], bits_stored: int = 16) -> None:
    """Image pixel module (PS3.3 C.7.6.3) for one frame or several, 16 bits allocated, grey.

    ``stored`` is int16 or uint16, shape (rows, columns) or (frames, rows, columns).
    """
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.BitsAllocated = 16
    ds.BitsStored = bits_stored
    ds.HighBit = bits_stored - 1
    ds.PixelRepresentation = int(stored.dtype == np.int16)
    ds.PixelData = np.ascontiguousarray(stored, dtype=stored.dtype.newbyteorder("<")).tobytes()
    ds["PixelData"].VR = "OW"


def code(value: str, scheme: str, meaning: str) -> DicomSequence:
    """A code sequence of one item."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return DicomSequence([item])


def decimal(value: float) -> str:
    """A number as a decimal string of at most 16 bytes."""
    rounded = round(float(value), 9) + 0.0
    for digits in range(10, 3, -1):
        text = f"{rounded:.{digits}g}"
        if len(text) <= 16:
            return text
    raise ValueError(f"{value} does not fit a decimal string")
