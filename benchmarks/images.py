"""Generate the CT images that the ingest benchmark sends: 512 x 512 x 16 bit, 0.53 MB each, a scanner-sized header."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def write_series(folder: Path, count: int, seed: int) -> None:
    """Write ``count`` distinct images of one generated series into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    noise = rng.normal(1040, 25, (512, 512)).astype("<i2")
    dataset = header(seed)
    for number in range(1, count + 1):
        uid = generate_uid()
        dataset.SOPInstanceUID = uid
        dataset.InstanceNumber = number
        dataset.ImagePositionPatient = [-250.0, -250.0, -1000.0 + 1.25 * number]
        dataset.SliceLocation = -1000.0 + 1.25 * number
        dataset.PixelData = np.roll(noise, number, axis=0).tobytes()
        dataset.file_meta = _file_meta(uid)
        dataset.save_as(folder / f"{number:05d}.dcm", enforce_file_format=True)


def _file_meta(uid: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def header(seed: int) -> Dataset:
    """Return the header of a generated CT image, without what differs from image to image."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    ds.StudyDate, ds.SeriesDate, ds.ContentDate = "20250101", "20250101", "20250101"
    ds.StudyTime, ds.SeriesTime, ds.ContentTime = "101500", "101600", "101700"
    ds.AccessionNumber = f"B{seed:06d}"
    ds.Modality = "CT"
    ds.Manufacturer, ds.ManufacturerModelName = "GENERATED", "Bench CT"
    ds.InstitutionName, ds.StationName = "Benchmark", "CT01"
    ds.ReferringPhysicianName = "Nobody^None"
    ds.StudyDescription, ds.SeriesDescription = "Chest routine", "Axial 1.25 soft"
    ds.ReferencedStudySequence = Sequence([_reference()])
    ds.SourceImageSequence = Sequence([_reference() for _ in range(3)])
    ds.PatientName, ds.PatientID = f"Bench^{seed}", f"BENCH{seed}"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19600101", "O", "065Y"
    ds.BodyPartExamined, ds.ScanOptions = "CHEST", "HELICAL MODE"
    ds.SliceThickness, ds.KVP, ds.DataCollectionDiameter = 1.25, 120.0, 500.0
    ds.ReconstructionDiameter, ds.ProtocolName = 500.0, "5.1 Chest"
    ds.DistanceSourceToDetector, ds.DistanceSourceToPatient = 949.0, 541.0
    ds.GantryDetectorTilt, ds.TableHeight, ds.RotationDirection = 0.0, 150.0, "CW"
    ds.ExposureTime, ds.XRayTubeCurrent, ds.Exposure = 500, 300, 150
    ds.FilterType, ds.ConvolutionKernel, ds.PatientPosition = "BODY FILTER", "STANDARD", "FFS"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber = "1", 3, 1
    ds.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = generate_uid(), "SN"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns, ds.PixelSpacing = 512, 512, [0.9766, 0.9766]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.WindowCenter, ds.WindowWidth = 40.0, 400.0
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024.0, 1.0, "HU"
    block = ds.private_block(0x0043, "GENERATED PARAMETERS", create=True)
    for element in range(0x10, 0x30):
        block.add_new(element, "DS", "1.5\\2.5\\3.5")
    return ds


def _reference() -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = CTImageStorage
    item.ReferencedSOPInstanceUID = generate_uid()
    return item
