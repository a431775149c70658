"""Writes small CT and PET series of any irregularity as Part 10 files; nothing is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset, FileMetaDataset, dcmwrite
from pydicom.dataset import FileDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
PET_IMAGE = "1.2.840.10008.5.1.4.1.1.128"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
ENHANCED_PET = "1.2.840.10008.5.1.4.1.1.130"
LEGACY_PET = "1.2.840.10008.5.1.4.1.1.128.1"
LEGACY_CT = "1.2.840.10008.5.1.4.1.1.2.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SERIES = "1.2.826.0.1.3680043.10.1"
STUDY = "1.2.826.0.1.3680043.10.2"
FRAME = "1.2.826.0.1.3680043.10.3"
PATIENT = "Tiny^Tim"

Change = Callable[[Dataset], None]


def pixels_of(index: int, shape: tuple[int, int] = (16, 20)) -> np.ndarray:
    """Stored values of one slice: different in every pixel and slice, around 1024 (0 HU)."""
    rows, columns = np.indices(shape)
    return (1000 + 40 * index + 3 * rows + columns).astype(np.int32)


def ct(index: int, **elements: object) -> Dataset:
    """Return one CT slice, 2.5 mm from the next; any element may be replaced, or removed with None."""
    values: dict[str, object] = {
        "SOPClassUID": CT_IMAGE,
        "SOPInstanceUID": f"{SERIES}.{index + 1}",
        "SeriesInstanceUID": SERIES,
        "StudyInstanceUID": STUDY,
        "FrameOfReferenceUID": FRAME,
        "PatientName": PATIENT,
        "PatientID": "4711",
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "InstanceNumber": index + 1,
        "AcquisitionNumber": 1,
        "AcquisitionDate": "20240501",
        "AcquisitionTime": "101500",
        "ImagePositionPatient": [-10.0, -8.0, 2.5 * index],
        "ImageOrientationPatient": list(AXIAL),
        "PixelSpacing": [0.8, 0.9],
        "SliceThickness": 2.5,
        "PatientPosition": "HFS",
        "ConvolutionKernel": "B30f",
        "KVP": 120,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "pixels": pixels_of(index),
    }
    return _dataset(values | elements)


def pet(index: int, **elements: object) -> Dataset:
    """Return one PET slice in Bq/ml with everything that SUV needs; half the dose is left after an hour."""
    drug = Dataset()
    drug.RadiopharmaceuticalStartTime = "090000"
    drug.RadionuclideTotalDose = 4e8
    drug.RadionuclideHalfLife = 3600
    values: dict[str, object] = {
        "SOPClassUID": PET_IMAGE,
        "SeriesInstanceUID": f"{SERIES}.9",
        "SOPInstanceUID": f"{SERIES}.9.{index + 1}",
        "Modality": "PT",
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "Units": "BQML",
        "DecayCorrection": "START",
        "CorrectedImage": ["DECY", "ATTN"],
        "SeriesDate": "20240501",
        "SeriesTime": "100000",
        "AcquisitionTime": "100000",
        "PatientWeight": 80,
        "PatientSize": 1.8,
        "PatientSex": "M",
        "RadiopharmaceuticalInformationSequence": Items([drug]),
        "RescaleIntercept": 0,
        "RescaleSlope": 2.0,
        "AcquisitionNumber": None,
        "KVP": None,
        "ConvolutionKernel": None,
    }
    return ct(index, **(values | elements))


def multiframe(
    slices: Sequence[Dataset], sop_class: str = ENHANCED_CT, change: Change | None = None, **elements: object
) -> Dataset:
    """Put single slices into one multi-frame object with functional groups."""
    first = slices[0]
    shared = Dataset()
    shared.PixelMeasuresSequence = _item(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=first.ImageOrientationPatient)
    frames = []
    for single in slices:
        frame = Dataset()
        frame.PlanePositionSequence = _item(ImagePositionPatient=single.ImagePositionPatient)
        frame.FrameContentSequence = _item(FrameAcquisitionNumber=single.get("AcquisitionNumber") or 1)
        frame.PixelValueTransformationSequence = _item(
            RescaleSlope=single.RescaleSlope, RescaleIntercept=single.RescaleIntercept, RescaleType="HU"
        )
        frame.CTImageFrameTypeSequence = _item(FrameType=list(first.ImageType))
        frames.append(frame)
    values: dict[str, object] = {
        "SOPClassUID": sop_class,
        "NumberOfFrames": len(slices),
        "SharedFunctionalGroupsSequence": Items([shared]),
        "PerFrameFunctionalGroupsSequence": Items(frames),
        "pixels": np.stack([single._pixels for single in slices]),
    }
    for keyword in (
        "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
        "RescaleIntercept", "AcquisitionNumber",
    ):  # fmt: skip
        values[keyword] = None
    made = ct(0, **(values | elements))
    if change:
        change(made)
    return made


def write(folder: Path, slices: Sequence[Dataset], syntax: str = ExplicitVRLittleEndian) -> list[Path]:
    """Write data sets as Part 10 files with shuffled but repeatable names; return the paths in the order given."""
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(7).permutation(len(slices))
    paths = []
    for name, ds in zip(order, slices, strict=True):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = syntax
        meta.MediaStorageSOPClassUID = ds.SOPClassUID
        meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3")
        path = folder / f"{name:04d}.dcm"
        dcmwrite(path, FileDataset(path, ds, file_meta=meta, preamble=bytes(128)), enforce_file_format=True)
        paths.append(path)
    return paths


def _dataset(values: dict[str, object]) -> Dataset:
    ds = Dataset()
    pixels = np.asarray(values.pop("pixels"))
    for keyword, value in values.items():
        if value is not None:
            setattr(ds, keyword, value)
    ds.Rows, ds.Columns = pixels.shape[-2:]
    width = int(values["BitsAllocated"] or 16)  # type: ignore[call-overload]
    signed = "i" if values["PixelRepresentation"] else "u"
    ds.PixelData = pixels.astype(f"<{signed}{width // 8}").tobytes()
    ds["PixelData"].VR = "OW"
    object.__setattr__(ds, "_pixels", pixels)
    return ds


def _item(**elements: object) -> Items:
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return Items([ds])
