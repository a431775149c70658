"""Generated PET/CT studies as DICOM: an FDG-PET series beside its CT (PS3.3 A.21, C.8.9)."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import PositronEmissionTomographyImageStorage

from dicom_qa_node.phantom.ct import CtForm, ct_series, table_origin
from dicom_qa_node.phantom.ct_acquisition import CtQuality, quality_named
from dicom_qa_node.phantom.image_header import (
    Identity,
    Scanner,
    add_pixels,
    add_plane,
    add_series,
    add_times,
    code,
    decimal,
    identity_of,
    phantom_uid,
    start_image,
)
from dicom_qa_node.phantom.volumes import Frame, Plane, frames_of, heights, pet_volume
from dicom_qa_node.phantom.voxel_canvas import Channel

HALF_LIFE_S = 6586.2
INJECTED_BQ = 3.1e8
UPTAKE = dt.timedelta(minutes=61)
BED_S = 120.0
BED_MM = 130.0
PHILIPS_CREATOR = "Philips PET Private Group"

PETCT_SCANNER = Scanner(model="Phantom PET/CT", station="GEN02", serial="20002")
LOW_DOSE_CT = CtQuality(noise_hu=18.0)


class Units(StrEnum):
    """Units (0054,1001) of the stored values."""

    BQML = "BQML"
    CNTS = "CNTS"
    GML = "GML"


class DecayCorrection(StrEnum):
    """Decay Correction (0054,1102): to the start of the scan, to the injection, or none."""

    START = "START"
    ADMIN = "ADMIN"
    NONE = "NONE"


@dataclass(frozen=True)
class PetForm:
    """How a PET series is written, apart from what it shows.

    Attributes
    ----------
    units
        CNTS writes counts with the Philips private SUV factor (7053,xx00) and activity factor (7053,xx09).
    decay
        Reference of the decay correction.
    suv_attributes
        False leaves out what a SUV needs: weight, injected activity, half-life, injection time.
    signed
        Signed or unsigned 16-bit pixels.
    slope_per_slice
        Another Rescale Slope for every image, as most scanners write; else one for the series.
    """

    units: Units = Units.BQML
    decay: DecayCorrection = DecayCorrection.START
    suv_attributes: bool = True
    signed: bool = True
    slope_per_slice: bool = True


@dataclass(frozen=True)
class PetSeries:
    """What stands once for all images of a PET series."""

    identity: Identity
    scanner: Scanner
    uid: str
    number: int
    description: str
    spacing_mm: float
    images: int
    form: PetForm
    begin: dt.datetime
    count_fraction: float
    common_slope: float

    @property
    def injection(self) -> dt.datetime:
        """When the tracer was given."""
        return self.begin - UPTAKE


PLAIN = PetForm()


def petct_study(
    seed: int,
    count_fraction: float = 1.0,
    *,
    ct_slices: int = 60,
    ct_rows: int = 512,
    ct_spacing_mm: float = 5.0,
    ct_fov_mm: float = 500.0,
    ct_quality: str | CtQuality = LOW_DOSE_CT,
    pet_rows: int = 168,
    pet_pixel_mm: float = 4.0728,
    pet_spacing_mm: float = 4.0,
    centre_mm: float = -10.0,
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    scanner: Scanner | None = None,
    identity: Identity | None = None,
    pet_form: PetForm = PLAIN,
) -> tuple[list[Dataset], list[Dataset]]:
    """CT and FDG-PET of one study and one frame of reference.

    Parameters
    ----------
    count_fraction
        Counts against the routine; the COV of the liver is 8 % at 1 and goes with ``1/sqrt(count_fraction)``.
    centre_mm
        Level of the middle of both stacks above the dome of the diaphragm. 170 slices of 5 mm around 20 show the
        whole body from thigh to vertex.
    shift_mm
        Displacement of the patient between PET and CT: (up, back, left).

    Returns
    -------
    tuple[list[Dataset], list[Dataset]]
        The CT images and the PET images, ready to save or to send.
    """
    who = identity or replace(
        identity_of(seed, "petct"),
        study_description="PET/CT FDG",
        body_part="WHOLEBODY",
        protocol="PET CT Oncology",
    )
    maker = scanner or PETCT_SCANNER
    ct = ct_series(
        seed,
        ct_slices,
        ct_rows,
        ct_quality,
        spacing_mm=ct_spacing_mm,
        thickness_mm=ct_spacing_mm,
        centre_mm=centre_mm,
        fov_mm=ct_fov_mm,
        channel=Channel.NATIVE_CT,
        scanner=maker,
        identity=who,
        description="CT AC " + ("low dose" if quality_named(ct_quality) is LOW_DOSE_CT else str(ct_quality)),
        form=CtForm(images_in_acquisition=True),
    )
    pet = pet_series(
        seed,
        max(round(ct_slices * ct_spacing_mm / pet_spacing_mm), 1),
        pet_rows,
        count_fraction,
        pixel_mm=pet_pixel_mm,
        spacing_mm=pet_spacing_mm,
        centre_mm=centre_mm,
        shift_mm=shift_mm,
        scanner=maker,
        identity=who,
        form=pet_form,
    )
    return ct, pet


def pet_series(
    seed: int,
    slices: int = 75,
    rows: int = 168,
    count_fraction: float = 1.0,
    *,
    pixel_mm: float = 4.0728,
    spacing_mm: float = 4.0,
    centre_mm: float = -10.0,
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    scanner: Scanner | None = None,
    identity: Identity | None = None,
    series_uid: str | None = None,
    series_number: int = 3,
    form: PetForm = PLAIN,
) -> list[Dataset]:
    """The PET series alone; parameters as for :func:`petct_study`."""
    volume = pet_volume(seed, heights(slices, spacing_mm, centre_mm), rows, pixel_mm, count_fraction, shift_mm)
    frames = frames_of(volume, Plane.AXIAL, 0.0, table_origin(seed))
    who = identity or identity_of(seed, "petct")
    begin = who.start + dt.timedelta(minutes=2 * series_number)
    series = PetSeries(
        identity=who,
        scanner=scanner or PETCT_SCANNER,
        uid=series_uid or phantom_uid(seed, who.study_uid, "pet", series_number, count_fraction, shift_mm, form),
        number=series_number,
        description="PET WB AC",
        spacing_mm=spacing_mm,
        images=len(frames),
        form=form,
        begin=begin,
        count_fraction=count_fraction,
        common_slope=float(volume.voxels.max()) / 32767.0,
    )
    return [pet_image(series, frame, index) for index, frame in enumerate(frames)]


def pet_image(series: PetSeries, frame: Frame, index: int) -> Dataset:
    """One image of a PET series; ``index`` counts from zero; pixels of the frame are SUV."""
    uid = phantom_uid(series.number, series.uid, index)
    ds = start_image(PositronEmissionTomographyImageStorage, uid, series.identity, series.scanner, "PT")
    add_series(ds, series.uid, series.number, series.description, series.identity, series.begin)
    bed = int(index * series.spacing_mm // BED_MM)
    acquired = series.begin + dt.timedelta(seconds=bed * (BED_S + 2.0))
    add_times(ds, acquired)
    ds.AcquisitionNumber = 1
    ds.InstanceNumber = ds.ImageIndex = index + 1
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    add_plane(ds, frame.position_mm, frame.orientation, frame.spacing_mm, series.spacing_mm)
    ds.SliceLocation = decimal(frame.position_mm[2])
    _add_series_module(ds, series)
    _add_isotope(ds, series)
    decay_s = (acquired - series.begin).total_seconds()
    ds.FrameReferenceTime = decimal(1000.0 * decay_s)
    ds.ActualFrameDuration = round(1000 * BED_S)
    ds.DoseCalibrationFactor = "1"
    ds.ScatterFractionFactor, ds.DeadTimeFactor = "0.35", "1.02"
    if series.form.decay is not DecayCorrection.NONE:
        ds.DecayFactor = decimal(0.5 ** (-_corrected_s(series, decay_s) / HALF_LIFE_S))
    _add_values(ds, frame, series, decay_s)
    return ds


def _corrected_s(series: PetSeries, decay_s: float) -> float:
    """Time over which the decay of this image was made good."""
    match series.form.decay:
        case DecayCorrection.START:
            return decay_s
        case DecayCorrection.ADMIN:
            return decay_s + UPTAKE.total_seconds()
        case DecayCorrection.NONE:
            return 0.0


def _add_series_module(ds: Dataset, series: PetSeries) -> None:
    """PET series module (PS3.3 C.8.9.1)."""
    ds.Units = series.form.units.value
    ds.CountsSource = "EMISSION"
    ds.SeriesType = ["WHOLE BODY", "IMAGE"]
    ds.NumberOfSlices = series.images
    ds.CorrectedImage = ["NORM", "DTIM", "ATTN", "SCAT", "RADL", "RAN"]
    if series.form.decay is not DecayCorrection.NONE:
        ds.CorrectedImage = [*ds.CorrectedImage, "DECY"]
    ds.DecayCorrection = series.form.decay.value
    ds.RandomsCorrectionMethod = "DLYD"
    ds.AttenuationCorrectionMethod = "CT, measured"
    ds.ScatterCorrectionMethod = "Model based"
    ds.ReconstructionMethod = "OSEM 2i 21s"
    ds.ConvolutionKernel = "Gaussian 5.0 mm"
    ds.CollimatorType = "NONE"
    ds.AxialAcceptance, ds.AxialMash = "38", ["5", "6"]
    if series.form.units is Units.GML:
        ds.SUVType = "BW"


def _add_isotope(ds: Dataset, series: PetSeries) -> None:
    """PET isotope and patient orientation modules (PS3.3 C.8.9.2, C.8.4.6)."""
    item = Dataset()
    item.Radiopharmaceutical = "Fluorodeoxyglucose"
    item.RadionuclideCodeSequence = code("77004003", "SCT", "^18^Fluorine")
    item.RadiopharmaceuticalCodeSequence = code("35321007", "SCT", "Fluorodeoxyglucose F^18^")
    if series.form.suv_attributes:
        item.RadiopharmaceuticalStartTime = series.injection.strftime("%H%M%S.%f")
        item.RadiopharmaceuticalStartDateTime = series.injection.strftime("%Y%m%d%H%M%S.%f")
        item.RadionuclideTotalDose = decimal(INJECTED_BQ)
        item.RadionuclideHalfLife = decimal(HALF_LIFE_S)
        item.RadionuclidePositronFraction = "0.967"
    else:
        del ds.PatientWeight
    ds.RadiopharmaceuticalInformationSequence = Sequence([item])
    orientation = code("102538003", "SCT", "recumbent")
    orientation[0].PatientOrientationModifierCodeSequence = code("40199007", "SCT", "supine")
    ds.PatientOrientationCodeSequence = orientation
    ds.PatientGantryRelationshipCodeSequence = code("102540001", "SCT", "headfirst")


def _add_values(ds: Dataset, frame: Frame, series: PetSeries, decay_s: float) -> None:
    form = series.form
    peak = float(frame.pixels.max()) / 32767.0 if form.slope_per_slice else series.common_slope
    quantum = max(peak, 1e-6)
    stored: npt.NDArray[np.int16] = np.rint(frame.pixels / quantum).clip(0, 32767).astype(np.int16)
    add_pixels(ds, stored if form.signed else stored.astype(np.uint16))
    per_suv = _value_per_suv(series, decay_s)
    ds.RescaleIntercept, ds.RescaleSlope = "0", decimal(quantum * per_suv)
    if form.units is Units.CNTS:
        block = ds.private_block(0x7053, PHILIPS_CREATOR, create=True)
        block.add_new(0x00, "DS", decimal(1.0 / per_suv))
        block.add_new(0x09, "DS", decimal(_bqml_per_suv(series, decay_s) / per_suv))


def _value_per_suv(series: PetSeries, decay_s: float) -> float:
    match series.form.units:
        case Units.BQML:
            return _bqml_per_suv(series, decay_s)
        case Units.GML:
            return 1.0
        case Units.CNTS:
            return 2371.0 * series.count_fraction


def _bqml_per_suv(series: PetSeries, decay_s: float) -> float:
    """Stored activity concentration of SUV 1: injected activity, decayed to the reference, per gram."""
    at_injection = INJECTED_BQ / (1000.0 * series.identity.weight_kg)
    waited = UPTAKE.total_seconds() + decay_s - _corrected_s(series, decay_s)
    return float(at_injection * 0.5 ** (waited / HALF_LIFE_S))
