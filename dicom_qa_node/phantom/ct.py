"""Generated CT series as DICOM: CT Image Storage, one data set per slice (PS3.3 A.3)."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

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
from dicom_qa_node.phantom.projector import Filter
from dicom_qa_node.phantom.volumes import AIR_HU, TOP_HU, Frame, Plane, ct_volume, frames_of, heights
from dicom_qa_node.phantom.voxel_canvas import Channel

ROUTINE_MA = 210.0
ROUTINE_CTDI_MGY = 9.2
KERNEL_NAMES = {
    Filter.HANN: "STANDARD",
    Filter.COSINE: "STANDARD PLUS",
    Filter.SHEPP_LOGAN: "DETAIL",
    Filter.RAM_LAK: "SHARP",
}


@dataclass(frozen=True)
class CtForm:
    """How a CT series is written, apart from what it shows.

    Attributes
    ----------
    plane, tilt_deg
        Image plane; gantry tilt in degrees (axial only).
    patient_position
        Patient Position (0018,5100).
    signed
        Signed pixels with intercept 0, else unsigned with intercept -1024.
    padding
        Value stored outside the scan circle, with Pixel Padding Value (0028,0120); None writes none.
    slope
        Rescale Slope; below 1 it keeps fractions of a HU.
    images_in_acquisition
        Write Images in Acquisition (0020,1002), the count that a receiver may expect.
    """

    plane: Plane = Plane.AXIAL
    tilt_deg: float = 0.0
    patient_position: str = "HFS"
    signed: bool = True
    padding: int | None = None
    slope: float = 1.0
    images_in_acquisition: bool = True


PLAIN = CtForm()


@dataclass(frozen=True)
class CtSeries:
    """What stands once for all images of a CT series."""

    identity: Identity
    scanner: Scanner
    uid: str
    number: int
    description: str
    acquisition: int
    spacing_mm: float
    thickness_mm: float
    fov_mm: float
    images: int
    quality: CtQuality
    form: CtForm
    contrast: bool
    begin: dt.datetime


def ct_series(
    seed: int,
    slices: int = 40,
    rows: int = 512,
    quality: str | CtQuality = "routine",
    *,
    spacing_mm: float = 3.0,
    thickness_mm: float = 3.0,
    centre_mm: float = -25.0,
    fov_mm: float = 400.0,
    channel: Channel = Channel.VENOUS_CT,
    scanner: Scanner | None = None,
    identity: Identity | None = None,
    series_uid: str | None = None,
    series_number: int = 2,
    description: str = "",
    acquisition: int = 1,
    form: CtForm = PLAIN,
) -> list[Dataset]:
    """A CT series of chest and abdomen, ready to save or to send.

    Parameters
    ----------
    seed
        Fixes patient, noise and every UID; the quality is part of the series UID, not of the study's.
    quality
        ``"routine"``, ``"tenth_dose"``, ``"sparse_views"`` or any :class:`CtQuality`.
    centre_mm
        Level of the middle of the stack above the dome of the diaphragm: liver -60, heart 30, shoulders 180.
    identity, series_uid
        Patient, study and series to take part in; derived from the seed if not given.

    Returns
    -------
    list[Dataset]
        Explicit VR little endian with file meta, in the order of the stack.
    """
    wanted = quality_named(quality)
    volume = ct_volume(seed, heights(slices, spacing_mm, centre_mm), rows, fov_mm, wanted, channel)
    frames = frames_of(volume, form.plane, form.tilt_deg, table_origin(seed))
    who = identity or replace(identity_of(seed), study_description="CT chest abdomen")
    label = quality if isinstance(quality, str) else "custom"
    series = CtSeries(
        identity=who,
        scanner=scanner or Scanner(),
        uid=series_uid or phantom_uid(seed, who.study_uid, "ct", series_number, wanted, rows, slices),
        number=series_number,
        description=description or f"Body {thickness_mm:g} mm {label.replace('_', ' ')}",
        acquisition=acquisition,
        spacing_mm=spacing_mm,
        thickness_mm=thickness_mm,
        fov_mm=fov_mm,
        images=len(frames),
        quality=wanted,
        form=form,
        contrast=channel is Channel.VENOUS_CT,
        begin=who.start + dt.timedelta(minutes=2 * series_number),
    )
    return [ct_image(series, frame, index) for index, frame in enumerate(frames)]


def table_origin(seed: int) -> tuple[float, float, float]:
    """Offset of the frame of reference from the anatomy's own zero: another table height for every seed."""
    return 0.0, -0.5 * (seed % 7), -300.0 - 10.0 * (seed % 23)


def ct_image(series: CtSeries, frame: Frame, index: int) -> Dataset:
    """One image of a series; ``index`` counts from zero."""
    instance_uid = phantom_uid(series.number, series.uid, series.acquisition, index)
    ds = start_image(CTImageStorage, instance_uid, series.identity, series.scanner, "CT")
    add_series(ds, series.uid, series.number, series.description, series.identity, series.begin)
    add_times(ds, series.begin + dt.timedelta(seconds=0.25 * index))
    form = series.form
    ds.PatientPosition = form.patient_position
    ds.AcquisitionNumber = series.acquisition
    ds.InstanceNumber = index + 1
    if form.images_in_acquisition:
        ds.ImagesInAcquisition = series.images
    axial = form.plane not in (Plane.CORONAL, Plane.SAGITTAL)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"] if axial else ["DERIVED", "SECONDARY", "MPR"]
    add_plane(ds, frame.position_mm, frame.orientation, frame.spacing_mm, series.thickness_mm)
    if axial:
        ds.SliceLocation = decimal(frame.position_mm[2])
    ds.SpacingBetweenSlices = decimal(series.spacing_mm)
    _add_technique(ds, series, frame.exposure)
    stored, intercept = _stored(frame, form)
    add_pixels(ds, stored)
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = decimal(intercept), decimal(form.slope), "HU"
    if form.padding is not None:
        ds.add_new(0x00280120, "SS" if form.signed else "US", form.padding)
    ds.WindowCenter, ds.WindowWidth = "40", "400"
    return ds


def _add_technique(ds: Dataset, series: CtSeries, exposure: float) -> None:
    """CT image module (PS3.3 C.8.2.1): tube, dose, reconstruction."""
    quality = series.quality
    current = max(round(ROUTINE_MA * exposure * quality.views / 720), 1)
    ds.ScanOptions = "HELICAL MODE"
    ds.KVP = "120"
    ds.DataCollectionDiameter = "500"
    ds.ReconstructionDiameter = decimal(series.fov_mm)
    ds.DistanceSourceToDetector, ds.DistanceSourceToPatient = "1085.6", "595"
    ds.GantryDetectorTilt = decimal(series.form.tilt_deg)
    ds.TableHeight = "150"
    ds.RotationDirection = "CW"
    ds.ExposureTime = 500
    ds.XRayTubeCurrent = current
    ds.Exposure = max(round(current * 0.5), 1)
    ds.ExposureModulationType = "Z_EC"
    ds.FilterType = "BODY"
    ds.GeneratorPower = max(round(current * 0.12), 1)
    ds.FocalSpots = "1.2"
    ds.ConvolutionKernel = KERNEL_NAMES[quality.kernel]
    ds.CTDIvol = round(ROUTINE_CTDI_MGY * exposure * quality.views / 720, 3)
    ds.CTDIPhantomTypeCodeSequence = code("113691", "DCM", "IEC Body Dosimetry Phantom")
    ds.SpiralPitchFactor = 0.984
    if series.contrast:
        ds.ContrastBolusAgent = "Iodine contrast"


def _stored(frame: Frame, form: CtForm) -> tuple[npt.NDArray[np.int16] | npt.NDArray[np.uint16], float]:
    intercept = 0.0 if form.signed else -1024.0
    values = np.rint((np.clip(frame.pixels, AIR_HU, TOP_HU) - intercept) / form.slope)
    if form.padding is not None:
        values[_outside_circle(values.shape)] = form.padding
    if form.signed:
        return np.clip(values, -32768, 32767).astype(np.int16), intercept
    return np.clip(values, 0, 65535).astype(np.uint16), intercept


def _outside_circle(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    rows, columns = shape
    y = (np.arange(rows) - (rows - 1) / 2) / (rows / 2)
    x = (np.arange(columns) - (columns - 1) / 2) / (columns / 2)
    return np.asarray(np.hypot(*np.meshgrid(x, y)) > 1.0)
