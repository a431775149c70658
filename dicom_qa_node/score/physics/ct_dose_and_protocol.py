"""Acquisition protocol, patient size and dose of a CT volume."""

from __future__ import annotations

import numpy as np
from pydicom import Dataset

from dicom_qa_node.dicom_io.headers import number, text
from dicom_qa_node.domain.results import Measurement
from dicom_qa_node.dose.size_specific_dose import size_factor, size_range_cm
from dicom_qa_node.score.body_region import BodyRegion, ctdi_phantom_cm, region_of
from dicom_qa_node.score.convolution_kernels import Sharpness
from dicom_qa_node.score.kernel_sharpness import KernelSharpness
from dicom_qa_node.score.physics.ct_quantities import CT_QUANTITIES
from dicom_qa_node.score.physics.ct_sampling import BoolArray, CtSample, slice_of
from dicom_qa_node.score.volume import FloatArray, Volume

__all__ = ["dose_measurements", "protocol_measurements", "size_factor", "water_equivalent_diameter_mm"]

# Name, keyword, how it is named, and what a scanner can have set; anything else is withheld.
_TAGS = (
    ("tube_voltage", "KVP", "KVP (0018,0060)", (30.0, 160.0)),
    ("tube_charge", "Exposure", "Exposure (0018,1152)", (0.1, 10_000.0)),
    ("pitch", "SpiralPitchFactor", "Spiral Pitch Factor (0018,9311)", (0.05, 4.0)),
)
_CTDI_MGY = (0.01, 1000.0)

_VALUES = {Sharpness.SOFT: 0.0, Sharpness.MEDIUM: 0.5, Sharpness.SHARP: 1.0}


def protocol_measurements(header: Dataset, kernel: KernelSharpness) -> tuple[Measurement, ...]:
    """Read what the protocol set.

    * ``tube_voltage`` (kV, context): KVP (0018,0060), PS3.3 C.8.2.1.
    * ``tube_charge`` (mAs, context): Exposure (0018,1152) of the first slice, PS3.3 C.8.2.1.
    * ``pitch`` (1, context): Spiral Pitch Factor (0018,9311), table feed per turn over beam width, PS3.3 C.8.15.3.2.
    * ``kernel_sharpness`` (1, context): 1 for a lung, bone or edge kernel, 0.5 for one
      between these and a soft-tissue kernel, else 0: by Convolution Kernel (0018,1210), by the noise for unknown names.
    """
    return (*(_tag(header, *tag) for tag in _TAGS), _kernel(kernel))


def _tag(header: Dataset, name: str, keyword: str, tag: str, possible: tuple[float, float]) -> Measurement:
    value = number(header, keyword)
    if value is None or value <= 0:
        several = text(header, keyword)
        reason = f"{tag} is {several}, not one number" if several and value is None else f"the header has no {tag}"
        return CT_QUANTITIES.absent(name, reason)
    if not possible[0] <= value <= possible[1]:
        return CT_QUANTITIES.absent(name, f"{tag} is {value:g}, which no scanner sets")
    return CT_QUANTITIES.value(name, value)


def _kernel(kernel: KernelSharpness) -> Measurement:
    if kernel.sharpness is Sharpness.UNKNOWN:
        why = f"the name {kernel.kernel} is not known" if kernel.kernel else "the header has no Convolution Kernel"
        return CT_QUANTITIES.absent("kernel_sharpness", f"{why}, and too little homogeneous tissue shows the noise")
    return CT_QUANTITIES.value("kernel_sharpness", _VALUES[kernel.sharpness], kernel.detail)


_TOO_TRUNCATED = 0.15


def water_equivalent_diameter_mm(
    hu: FloatArray, pixel_mm: tuple[float, float], patient: BoolArray | None = None
) -> float:
    """Return the water-equivalent diameter of one axial CT slice in mm (AAPM Report 220, 2014).

    ``Dw = 2 sqrt(sum(HU / 1000 + 1) pixel area / pi)`` over the whole patient: trunk and arms, not the table.

    Parameters
    ----------
    hu
        CT numbers, shape (rows, columns).
    pixel_mm
        Distance of neighbouring rows and columns in mm.
    patient
        Where the patient is, bool, shape of ``hu``; found in the image by default.

    Examples
    --------
    A cylinder of water of 200 mm:

    >>> y, x = np.ogrid[-150:150, -150:150]
    >>> image = np.where(x**2 + y**2 < 100**2, 0.0, -1000.0).astype(np.float32)
    >>> round(water_equivalent_diameter_mm(image, (1.0, 1.0)))
    200
    """
    where = slice_of(np.asarray(hu, np.float32), pixel_mm).patient if patient is None else patient
    water = np.sum(np.asarray(hu)[where] / np.float32(1000.0) + np.float32(1.0), dtype=np.float64)
    return float(2.0 * np.sqrt(max(float(water), 0.0) * pixel_mm[0] * pixel_mm[1] / np.pi))


def dose_measurements(view: CtSample) -> tuple[Measurement, ...]:
    """Measure patient size and read the dose.

    * ``water_equivalent_diameter`` (mm, context): `water_equivalent_diameter_mm`, mean over slices; not where more than
      15 % of the outline is cut by the field.
    * ``ctdi_vol`` (mGy, context): CTDIvol (0018,9345) of the first slice.
    * ``dlp`` (mGy.cm, context): CTDIvol x (distance of first and last slice + slice thickness); overranging is not
      in it.
    * ``ssde`` (mGy, context): CTDIvol x `size_factor` (AAPM Reports 204, 220 and 293).
    """
    header = view.volume.header
    diameter = _diameter(view)
    ctdi = number(header, "CTDIvol")
    if ctdi is None or ctdi <= 0:
        absent = CT_QUANTITIES.absent_all(("ctdi_vol", "dlp", "ssde"), "the images carry no CTDIvol (0018,9345)")
        return (diameter, *absent)
    if not _CTDI_MGY[0] <= ctdi <= _CTDI_MGY[1]:
        reason = f"CTDIvol (0018,9345) is {ctdi:g} mGy, which no scan has"
        return (diameter, *CT_QUANTITIES.absent_all(("ctdi_vol", "dlp", "ssde"), reason))
    positions = view.volume.positions_mm
    thickness = number(header, "SliceThickness") or view.volume.spacing_mm[0]
    length_cm = (float(positions[-1] - positions[0]) + thickness) / 10.0
    return (
        diameter,
        CT_QUANTITIES.value("ctdi_vol", ctdi),
        CT_QUANTITIES.value("dlp", ctdi * length_cm, f"CTDIvol of the first slice x {length_cm:.1f} cm"),
        _ssde(view.volume, ctdi, diameter),
    )


def _diameter(view: CtSample) -> Measurement:
    name = "water_equivalent_diameter"
    if not view.axial:
        return CT_QUANTITIES.absent(name, "the slices are not axial")
    whole = [part for part in view.slices if part.truncated <= _TOO_TRUNCATED]
    if not view.slices or len(whole) < 0.5 * len(view.slices):
        return CT_QUANTITIES.absent(name, "the field cuts the body in most slices")
    diameters = np.array([water_equivalent_diameter_mm(part.hu, part.pixel_mm, part.patient) for part in whole])
    return CT_QUANTITIES.value(
        name, float(np.mean(diameters)), f"{diameters.min():.0f} to {diameters.max():.0f} mm along the scan"
    )


def _ssde(volume: Volume, ctdi: float, diameter: Measurement) -> Measurement:
    if diameter.value is None:
        return CT_QUANTITIES.absent("ssde", f"no water-equivalent diameter: {diameter.not_applicable}")
    head = region_of(volume) is BodyRegion.HEAD
    stated = ctdi_phantom_cm(volume.header)
    phantom = stated or (16 if head else 32)
    diameter_cm = diameter.value / 10.0
    low, high = size_range_cm(phantom, head)
    if not low <= diameter_cm <= high:
        return CT_QUANTITIES.absent(
            "ssde", f"diameter {diameter_cm:.0f} cm lies outside the tables ({low:.0f} to {high:.0f} cm)"
        )
    factor = size_factor(diameter_cm, phantom, head)
    detail = f"{phantom} cm phantom {'stated' if stated else 'assumed'}, factor {factor:.2f}"
    return CT_QUANTITIES.value("ssde", ctdi * factor, detail)
