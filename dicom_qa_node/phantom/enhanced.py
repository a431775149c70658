"""Enhanced CT and Enhanced PET objects made of generated series (PS3.3 A.38, A.56)."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage, EnhancedPETImageStorage

from dicom_qa_node.phantom.header import code
from dicom_qa_node.phantom.identity import phantom_uid
from dicom_qa_node.phantom.multiframe import add_frame_kind, item, items, start_multiframe
from dicom_qa_node.phantom.pet import BED_S, HALF_LIFE_S, INJECTED_BQ


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
