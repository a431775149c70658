"""Small CT and PET data sets for the tests of receiving, as files of any transfer syntax."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)
from pynetdicom import dsutils

EXPLICIT = str(ExplicitVRLittleEndian)


def ct(rows: int = 16, **changes: Any) -> Dataset:
    """Return a CT image with nested sequences, a private block and 16-bit pixels."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID = generate_uid()
    ds.SeriesInstanceUID = generate_uid()
    ds.FrameOfReferenceUID = generate_uid()
    ds.Modality = "CT"
    ds.PatientName, ds.PatientID = "Phantom^Test", "P1"
    ds.StudyDate, ds.StudyTime = "20250102", "101112"
    ds.Manufacturer, ds.StationName = "GENERATED", "CT1"
    ds.InstanceNumber, ds.AcquisitionNumber = 3, 2
    inner = Dataset()
    inner.ReferencedSOPInstanceUID = generate_uid()
    outer = Dataset()
    outer.ReferencedSeriesSequence = Sequence([inner, inner])
    ds.ReferencedStudySequence = Sequence([outer])
    ds.private_block(0x0043, "GENERATED", create=True).add_new(0x10, "DS", "1.5")
    ds.Rows = ds.Columns = rows
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 1
    ds.PixelData = np.arange(rows * rows, dtype="<i2").tobytes()
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def pet(**changes: Any) -> Dataset:
    """Return a PET image."""
    return ct(SOPClassUID=PositronEmissionTomographyImageStorage, Modality="PT", AcquisitionNumber=None, **changes)


def encoded(ds: Dataset, transfer_syntax: str = EXPLICIT) -> bytes:
    """Return the data set's bytes as a C-STORE would carry them."""
    data = dsutils.encode(
        ds,
        is_implicit_vr=transfer_syntax == ImplicitVRLittleEndian,
        is_little_endian=transfer_syntax != ExplicitVRBigEndian,
        deflated=transfer_syntax == DeflatedExplicitVRLittleEndian,
    )
    assert data is not None
    return data
