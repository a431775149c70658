"""Enhanced (multi-frame) CT and PET objects of generated studies."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    UID,
    EnhancedCTImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
)

from dicom_qa_node.phantom.image_header import add_pixels, code, phantom_uid
from dicom_qa_node.phantom.pet import BED_S, HALF_LIFE_S, INJECTED_BQ

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


def enhanced_ct(images: Sequence[Dataset]) -> Dataset:
    """One Enhanced CT object from the images of a CT series."""
    first = images[0]
    ds = start_multiframe(images, EnhancedCTImageStorage)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.ContentQualification = "RESEARCH"
    ds.AcquisitionDuration = 8.0
    add_frame_kind(ds)
    frame_type = item(FrameType=ds.ImageType)
    add_frame_kind(frame_type)
    shared = ds.SharedFunctionalGroupsSequence[0]
    shared.CTImageFrameTypeSequence = items(frame_type)
    _add_ct_acquisition(shared, first)
    for image, group in zip(images, ds.PerFrameFunctionalGroupsSequence, strict=True):
        _add_ct_exposure(group, image)
    return ds


def _add_ct_acquisition(shared: Dataset, first: Dataset) -> None:
    """Functional groups of PS3.3 C.8.15.3 that hold for all frames."""
    centre = [0.0, 0.0, float(first.ImagePositionPatient[2])]
    shared.CTAcquisitionTypeSequence = items(
        item(AcquisitionType="SPIRAL", ConstantVolumeFlag="NO", FluoroscopyFlag="NO")
    )
    shared.CTAcquisitionDetailsSequence = items(
        item(
            RotationDirection="CW",
            RevolutionTime=0.5,
            SingleCollimationWidth=0.625,
            TotalCollimationWidth=40.0,
            TableHeight=150.0,
            GantryDetectorTilt=0.0,
            DataCollectionDiameter=500.0,
        )
    )
    shared.CTTableDynamicsSequence = items(item(TableSpeed=78.7, TableFeedPerRotation=39.4, SpiralPitchFactor=0.984))
    shared.CTGeometrySequence = items(item(DistanceSourceToDetector=1085.6, DistanceSourceToDataCollectionCenter=595.0))
    pixel = [float(value) for value in first.PixelSpacing]
    shared.CTReconstructionSequence = items(
        item(
            ReconstructionAlgorithm="FILTER_BACK_PROJ",
            ConvolutionKernel=first.ConvolutionKernel,
            ConvolutionKernelGroup="SOFT_TISSUE",
            ReconstructionDiameter=float(first.ReconstructionDiameter),
            ReconstructionPixelSpacing=pixel,
            ReconstructionAngle=180.0,
            ImageFilter="NONE",
        )
    )
    shared.CTXRayDetailsSequence = items(
        item(KVP=float(first.KVP), FocalSpots=[1.2], FilterType="BODY", FilterMaterial=["ALUMINUM"])
    )
    shared.IrradiationEventIdentificationSequence = items(
        item(IrradiationEventUID=phantom_uid(0, first.SeriesInstanceUID, "event"))
    )
    shared.CTPositionSequence = items(
        item(
            TablePosition=float(first.ImagePositionPatient[2]),
            DataCollectionCenterPatient=centre,
            ReconstructionTargetCenterPatient=centre,
        )
    )


def _add_ct_exposure(group: Dataset, image: Dataset) -> None:
    group.CTExposureSequence = items(
        item(
            ExposureTimeInms=float(image.ExposureTime),
            XRayTubeCurrentInmA=float(image.XRayTubeCurrent),
            ExposureInmAs=float(image.Exposure),
            ExposureModulationType="ZEC",
            CTDIvol=float(image.CTDIvol),
            CTDIPhantomTypeCodeSequence=code("113691", "DCM", "IEC Body Dosimetry Phantom"),
        )
    )


def enhanced_pet(images: Sequence[Dataset]) -> Dataset:
    """One Enhanced PET object from the images of a PET series; Real World Value Mapping names the unit."""
    first = images[0]
    ds = start_multiframe(images, EnhancedPETImageStorage)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.ContentQualification = "RESEARCH"
    ds.AcquisitionDuration = BED_S
    add_frame_kind(ds)
    _add_pet_acquisition(ds, first)
    frame_type = item(FrameType=ds.ImageType)
    add_frame_kind(frame_type)
    shared = ds.SharedFunctionalGroupsSequence[0]
    shared.PETFrameTypeSequence = items(frame_type)
    _add_pet_reconstruction(shared)
    unit = ("Bq/ml", "Becquerels/milliliter") if first.Units == "BQML" else ("g/ml", "Grams/milliliter")
    for image, group in zip(images, ds.PerFrameFunctionalGroupsSequence, strict=True):
        top = int(image.pixel_array.max())
        mapping = item(
            LUTLabel=unit[0],
            LUTExplanation=unit[1],
            RealWorldValueIntercept=float(image.RescaleIntercept),
            RealWorldValueSlope=float(image.RescaleSlope),
            MeasurementUnitsCodeSequence=code(unit[0], "UCUM", unit[1]),
        )
        signed = bool(image.PixelRepresentation)
        mapping.add_new(0x00409216, "SS" if signed else "US", 0)
        mapping.add_new(0x00409211, "SS" if signed else "US", top)
        group.RealWorldValueMappingSequence = items(mapping)
        group.PETFrameCorrectionFactorsSequence = items(
            item(PrimaryPromptsCountsAccumulated=1_000_000, SliceSensitivityFactor=1.0)
        )
        group.PETFrameCorrectionFactorsSequence[0].ScatterFractionFactor = float(image.ScatterFractionFactor)
        group.PETFrameCorrectionFactorsSequence[0].DeadTimeFactor = float(image.DeadTimeFactor)
        group.PETFrameCorrectionFactorsSequence[0].DecayFactor = float(image.get("DecayFactor", 1.0))
    return ds


def _add_pet_acquisition(ds: Dataset, first: Dataset) -> None:
    """Isotope, acquisition and image modules (PS3.3 C.8.22)."""
    source = first.RadiopharmaceuticalInformationSequence[0]
    start = source.get("RadiopharmaceuticalStartDateTime", ds.AcquisitionDateTime)
    ds.RadiopharmaceuticalInformationSequence = items(
        item(
            RadiopharmaceuticalAgentNumber=1,
            RadionuclideCodeSequence=source.RadionuclideCodeSequence,
            RadiopharmaceuticalCodeSequence=source.RadiopharmaceuticalCodeSequence,
            AdministrationRouteCodeSequence=code("47625008", "SCT", "Intravenous route"),
            RadiopharmaceuticalStartDateTime=start,
            RadiopharmaceuticalStopDateTime=start,
            RadionuclideTotalDose=INJECTED_BQ,
            RadionuclideHalfLife=HALF_LIFE_S,
            RadionuclidePositronFraction=0.967,
        )
    )
    ds.TypeOfDetectorMotion = "STATIONARY"
    ds.CollimatorType = "NONE"
    ds.AcquisitionStartCondition, ds.AcquisitionTerminationCondition = "MANU", "TIME"
    ds.TerminationTimeThreshold = BED_S
    ds.DetectorGeometry, ds.TableMotion = "CYLINDRICAL_RING", "STATIC"
    ds.TransverseDetectorSeparation, ds.AxialDetectorDimension = 4.0, 160.0
    ds.CoincidenceWindowWidth = 4.1
    ds.EnergyWindowRangeSequence = items(item(EnergyWindowLowerLimit="435", EnergyWindowUpperLimit="650"))
    ds.TimeOfFlightInformationUsed = "FALSE"
    ds.CountsSource = "EMISSION"
    for keyword in [
        "DecayCorrected",
        "AttenuationCorrected",
        "ScatterCorrected",
        "DeadTimeCorrected",
        "GantryMotionCorrected",
        "PatientMotionCorrected",
        "CountLossNormalizationCorrected",
        "RandomsCorrected",
        "NonUniformRadialSamplingCorrected",
        "SensitivityCalibrated",
        "DetectorNormalizationCorrection",
    ]:
        setattr(ds, keyword, "NO" if "Motion" in keyword or "NonUniform" in keyword else "YES")
    ds.DecayCorrectionDateTime = ds.AcquisitionDateTime
    ds.AttenuationCorrectionSource = "CT"
    ds.AttenuationCorrectionTemporalRelationship = "SEPARATE"
    ds.ViewCodeSequence = code("24422004", "SCT", "Axial")
    ds.ScatterCorrectionMethod, ds.RandomsCorrectionMethod = "Model based", "DLYD"


def _add_pet_reconstruction(shared: Dataset) -> None:
    shared.PETFrameAcquisitionSequence = items(
        item(
            TableHeight=150.0,
            GantryDetectorTilt=0.0,
            DataCollectionDiameter=700.0,
            GantryDetectorSlew=0.0,
        )
    )
    shared.PETPositionSequence = items(
        item(
            TablePosition=0.0,
            DataCollectionCenterPatient=[0.0, 0.0, 0.0],
            ReconstructionTargetCenterPatient=[0.0, 0.0, 0.0],
        )
    )
    shared.PETReconstructionSequence = items(
        item(
            ReconstructionType="3D",
            ReconstructionAlgorithm="MLEM",
            IterativeReconstructionMethod="YES",
            NumberOfIterations=2,
            NumberOfSubsets=21,
            ReconstructionDiameter=684.0,
        )
    )
    shared.RadiopharmaceuticalUsageSequence = items(item(RadiopharmaceuticalAgentNumber=1))
