"""Reads when and how a series was acquired and reconstructed, for the charts that compare it with others."""

from __future__ import annotations

import datetime as dt
import re

from pydicom import Dataset

from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.dicom_io.date_times import parse_datetime
from dicom_qa_node.domain.acquisition_parameters import Acquisition, Reconstruction
from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.score.convolution_kernels import kernel_name

__all__ = ["acquisition_of", "reconstruction_of"]

# Product names of the vendors: GE TrueFidelity, Canon AiCE and PIQE, Philips Precise Image, United Imaging uAI,
# Siemens "deep resolve"; for PET GE Precision DL and United Imaging HYPER DLR. They stand in kernels and descriptions.
_DEEP = re.compile(
    r"\b(AICE|PIQE|DLIR|DLR|TRUE ?FIDELITY|PRECISE IMAGE|PRECISION DL|HYPER[ -]?DLR|DEEP ?RECON|DEEP LEARNING)\b"
)
# GE ASiR and Veo, Canon AIDR, Philips iDose and IMR, Siemens SAFIRE and ADMIRE, United Imaging KARL
# and HYPER Iterative, Neusoft ClearView; PET: OSEM and its vendors' names (VPFX and QCFX are GE's, TOF/PSF Siemens').
_ITERATIVE = re.compile(
    r"\b(ASIR(-?V)?|VEO|AIDR ?(3D|3DE)?|I-?DOSE\d?|IMR\d?|SAFIRE|ADMIRE|KARL|CLEARVIEW|ITERATIVE|"
    r"OS-?EM|\d?D?-?OSEM\w*|RAMLA|BLOB-OS-TF|VPFX\S*|VPHD\S*|QCFX\S*|VUE POINT\w*|Q\.?CLEAR|"
    r"ULTRAHD-PET|PSF\+TOF\w*|TRUEX\S*)\b"
)
# Words that mean something else in a description.
_ITERATIVE_KERNEL = re.compile(r"\b(FIRST|IRIS)\b")
_FBP = re.compile(r"\b(FBP|FILTERED? BACK ?PROJ(ECTION)?|FILTER_BACK_PROJ|3D-?RP|DIFT)\b")

# Reconstruction Algorithm (0018,9315), PS3.3 C.8.15.3.8.
_TERMS = {"FILTER_BACK_PROJ": Reconstruction.FBP, "ITERATIVE": Reconstruction.ITERATIVE}

# Siemens: I, J and Q are the families of iterative kernels up to about 2013; the newer ones (Br, Hr ...) are used by
# ADMIRE too, which then stands as a second value, its strength 1 to 5.
_SIEMENS_ITERATIVE = re.compile(r"^[IJQ]\d\d[A-Z]?$")
_SIEMENS_FILTERED = re.compile(r"^A?[BCDHSU]\d\d[A-Z]?$")
_SIEMENS_NEW = re.compile(r"^[BHQSU][A-Z]\d\d[A-Z]?$")

_GE_BLOCK = "GEHC_CT_ADVAPP_001"
_GE_MODE, _GE_CONFIGURATION, _GE_LEVEL = 0x41, 0x42, 0x43
_PHILIPS_LEVELS = ((0x01F7, 0x9B), (0x01F7, 0x109B))


def acquisition_of(header: Dataset, kind: SeriesKind) -> Acquisition:
    """Return the facts of one series.

    The time is that of Acquisition DateTime, else of Acquisition, Series or Study Date with their times, the first pair
    whose date can be read (a date without a time counts as its midnight).

    Parameters
    ----------
    header
        Attributes of a slice, functional groups flattened.
    """
    zone = at.zone(header)
    if zone is None:
        # Acquisition DateTime may carry an offset of its own.
        stated = parse_datetime(at.word(header, "AcquisitionDateTime"))
        zone = None if stated is None or stated[1] is None else stated[2]
    thickness = at.number(header, "SliceThickness")
    return Acquisition(
        at=_moment(header),
        utc_offset_min=None if zone is None else round(zone.total_seconds() / 60),
        kernel=kernel_name(header)[:64] if kind is SeriesKind.CT else "",
        reconstruction=reconstruction_of(header, kind),
        slice_thickness_mm=thickness if thickness is not None and 0 < thickness <= 50 else None,
    )


def _moment(header: Dataset) -> dt.datetime | None:
    found = at.moment(header, "AcquisitionDateTime")
    if found is not None:
        return found
    for name in ("Acquisition", "Series", "Study"):
        day = at.date(header, f"{name}Date")
        if day is not None:
            return dt.datetime.combine(day, at.time_of_day(header, f"{name}Time") or dt.time())
    return None


def reconstruction_of(header: Dataset, kind: SeriesKind) -> Reconstruction:
    """Return the class of a reconstruction; UNKNOWN where the header does not name it.

    The standard's own attribute decides (Reconstruction Algorithm (0018,9315), for PET Reconstruction Method
    (0054,1103)), then the vendors' private ones, then product names in kernel and descriptions. Deep learning is looked
    for first: its vendors also fill in the attributes of the iterative method that it replaces.
    """
    names = ("ConvolutionKernel", "ReconstructionMethod", "SeriesDescription", "ProtocolName", "ImageComments")
    words = " ".join(at.text(header, name) for name in (*names, "ReconstructionDescription")).upper()
    annotation = _private(header, _GE_MODE) + " " + _private(header, _GE_CONFIGURATION)
    if _DEEP.search(f"{words} {annotation.upper()}"):
        return Reconstruction.DEEP_LEARNING
    stated = _TERMS.get(at.word(header, "ReconstructionAlgorithm").upper())
    if stated is not None:
        return stated
    kernel = at.text(header, "ConvolutionKernel").upper()
    if _ITERATIVE.search(words) or _ITERATIVE_KERNEL.search(kernel) or _private_level(header):
        return Reconstruction.ITERATIVE
    if _FBP.search(words):
        return Reconstruction.FBP
    return _by_siemens_kernel(header) if kind is SeriesKind.CT else Reconstruction.UNKNOWN


def _private(header: Dataset, offset: int) -> str:
    try:
        return str(header.private_block(0x0053, _GE_BLOCK)[offset].value or "")
    except (KeyError, *at.BROKEN_VALUE):
        return ""


def _private_level(header: Dataset) -> bool:
    """Whether GE's or Philips' private attributes give a strength of an iterative reconstruction above zero."""
    if re.search(r"[1-9]", _private(header, _GE_LEVEL)):
        return True
    return any(re.search(r"[1-9]", at.text(header, tag)) for tag in _PHILIPS_LEVELS)


def _by_siemens_kernel(header: Dataset) -> Reconstruction:
    if not at.word(header, "Manufacturer").upper().startswith("SIEMENS"):
        return Reconstruction.UNKNOWN
    name, *rest = (*(value.upper() for value in at.words(header, "ConvolutionKernel")), "")
    if _SIEMENS_ITERATIVE.match(name):
        return Reconstruction.ITERATIVE
    strength = next((value for value in rest if value), "")
    if _SIEMENS_NEW.match(name):
        return Reconstruction.ITERATIVE if strength.isdigit() and strength != "0" else Reconstruction.FBP
    return Reconstruction.FBP if _SIEMENS_FILTERED.match(name) else Reconstruction.UNKNOWN
