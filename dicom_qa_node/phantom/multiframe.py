"""Whole series in one multi-frame object: what Enhanced and Legacy Converted Enhanced images share (PS3.3 C.7.6.16)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, LegacyConvertedEnhancedCTImageStorage, LegacyConvertedEnhancedPETImageStorage

from dicom_qa_node.phantom.header import add_pixels, code
from dicom_qa_node.phantom.identity import phantom_uid

_KEPT = [
    "SpecificCharacterSet",
    "Modality",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "StudyDescription",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDate",
    "SeriesTime",
    "SeriesDescription",
    "ProtocolName",
    "BodyPartExamined",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "Manufacturer",
    "ManufacturerModelName",
    "StationName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "InstitutionName",
    "PatientPosition",
]


def legacy_converted(images: Sequence[Dataset]) -> Dataset:
    """One Legacy Converted Enhanced CT or PET object from the images of a series (PS3.3 A.70, A.72)."""
    first = images[0]
    is_ct = first.Modality == "CT"
    sop_class = LegacyConvertedEnhancedCTImageStorage if is_ct else LegacyConvertedEnhancedPETImageStorage
    ds = start_multiframe(images, sop_class)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    frame_type = Dataset()
    frame_type.FrameType = ds.ImageType
    add_frame_kind(ds)
    add_frame_kind(frame_type)
    shared = ds.SharedFunctionalGroupsSequence[0]
    if not is_ct:
        ds.ContentQualification = "RESEARCH"
    setattr(shared, "CTImageFrameTypeSequence" if is_ct else "PETFrameTypeSequence", items(frame_type))
    shared.UnassignedSharedConvertedAttributesSequence = items(_unassigned(first))
    for image, group in zip(images, ds.PerFrameFunctionalGroupsSequence, strict=True):
        source = Dataset()
        source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        group.ConversionSourceAttributesSequence = items(source)
        rest = Dataset()
        rest.InstanceNumber = image.InstanceNumber
        group.UnassignedPerFrameConvertedAttributesSequence = items(rest)
    return ds


def start_multiframe(images: Sequence[Dataset], sop_class: str) -> Dataset:
    """The modules common to all multi-frame objects, with measures, orientation, position and values per frame."""
    first = images[0]
    ds = Dataset()
    ds.file_meta = copy.deepcopy(first.file_meta)
    ds.SOPClassUID = UID(sop_class)
    ds.SOPInstanceUID = UID(phantom_uid(len(images), first.SeriesInstanceUID, sop_class))
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    for keyword in _KEPT:
        if keyword in first:
            ds[keyword] = copy.deepcopy(first[keyword])
    ds.InstanceNumber = 1
    ds.ContentDate, ds.ContentTime = first.ContentDate, first.ContentTime
    ds.AcquisitionDateTime = first.AcquisitionDate + first.AcquisitionTime
    ds.LossyImageCompression = "00"
    ds.BurnedInAnnotation = "NO"
    ds.PresentationLUTShape = "IDENTITY"
    ds.NumberOfFrames = len(images)
    add_pixels(ds, np.stack([image.pixel_array for image in images]))
    _add_dimensions(ds)
    ds.AcquisitionContextSequence = DicomSequence([])
    ds.SharedFunctionalGroupsSequence = items(_shared_group(first))
    ds.PerFrameFunctionalGroupsSequence = DicomSequence(
        [_frame_group(image, number) for number, image in enumerate(images, start=1)]
    )
    return ds


def add_frame_kind(ds: Dataset) -> None:
    """Common CT/MR/PET image description (PS3.3 C.8.16.2)."""
    ds.PixelPresentation = "MONOCHROME"
    ds.VolumetricProperties = "VOLUME"
    ds.VolumeBasedCalculationTechnique = "NONE"


def items(*datasets: Dataset) -> DicomSequence:
    """A sequence of these items."""
    return DicomSequence(list(datasets))


def item(**attributes: Any) -> Dataset:
    """An item with these attributes, by keyword."""
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def _add_dimensions(ds: Dataset) -> None:
    organization = phantom_uid(0, ds.SOPInstanceUID, "dimensions")
    ds.DimensionOrganizationSequence = items(item(DimensionOrganizationUID=organization))
    pointers = ((0x00209056, "Stack ID"), (0x00209057, "In-Stack Position Number"))
    ds.DimensionIndexSequence = items(
        *(
            item(
                DimensionOrganizationUID=organization,
                DimensionIndexPointer=pointer,
                FunctionalGroupPointer=0x00209111,
                DimensionDescriptionLabel=label,
            )
            for pointer, label in pointers
        )
    )


def _shared_group(first: Dataset) -> Dataset:
    measures = item(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)
    if "SpacingBetweenSlices" in first:
        measures.SpacingBetweenSlices = first.SpacingBetweenSlices
    anatomy = item(AnatomicRegionSequence=code("43799004", "SCT", "Thoracic cavity"), FrameLaterality="U")
    return item(
        PixelMeasuresSequence=items(measures),
        PlaneOrientationSequence=items(item(ImageOrientationPatient=first.ImageOrientationPatient)),
        FrameAnatomySequence=items(anatomy),
    )


def _frame_group(image: Dataset, number: int) -> Dataset:
    moment = image.AcquisitionDate + image.AcquisitionTime
    content = item(
        FrameAcquisitionNumber=1,
        FrameReferenceDateTime=moment,
        FrameAcquisitionDateTime=moment,
        FrameAcquisitionDuration=float(image.get("ActualFrameDuration", 500)),
        TemporalPositionIndex=1,
        StackID="1",
        InStackPositionNumber=number,
        DimensionIndexValues=[1, number],
    )
    unit = "HU" if image.Modality == "CT" else "US"
    values = item(RescaleIntercept=image.RescaleIntercept, RescaleSlope=image.RescaleSlope, RescaleType=unit)
    return item(
        FrameContentSequence=items(content),
        PlanePositionSequence=items(item(ImagePositionPatient=image.ImagePositionPatient)),
        PixelValueTransformationSequence=items(values),
    )


def _unassigned(first: Dataset) -> Dataset:
    """Attributes of the single images for which the multi-frame object has no place."""
    rest = Dataset()
    for keyword in [
        "KVP",
        "ConvolutionKernel",
        "XRayTubeCurrent",
        "Exposure",
        "ReconstructionDiameter",
        "Units",
        "CorrectedImage",
        "DecayCorrection",
        "RadiopharmaceuticalInformationSequence",
        "SeriesType",
        "CountsSource",
        "ReconstructionMethod",
    ]:
        if keyword in first:
            rest[keyword] = copy.deepcopy(first[keyword])
    return rest
