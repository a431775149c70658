"""Sharpness of CT reconstruction kernels by their vendors' names (Convolution Kernel (0018,1210), PS3.3 C.8.2.1).

The names are not standardised. `sharpness_of_name` knows those of Siemens, GE, Philips, Canon/Toshiba, United Imaging
and Neusoft; for any other name the answer is UNKNOWN, and `kernel_sharpness.sharpness_of_volume` looks at the images.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydicom import Dataset

from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.domain.acquisition_parameters import Sharpness

__all__ = ["Sharpness", "kernel_name", "sharpness_of_header", "sharpness_of_name"]


_PLAIN_WORDS = {
    Sharpness.SHARP: ("LUNG", "BONE", "EDGE", "INNER_EAR", "INNEREAR", "ULTRA", "TEMPORAL", "SHARP"),
    Sharpness.MEDIUM: ("DETAIL", "CHST", "CHEST", "SPINE"),
    Sharpness.SOFT: (
        "STANDARD", "STND", "STD", "SOFT", "SMOOTH", "BODY", "BRAIN", "CARDIAC", "HEART", "ABDOMEN", "LIVER",
        "MEDIASTIN", "VASCULAR", "NECK",
    ),
}  # fmt: skip

# DICOM's own words, Convolution Kernel Group (0018,9316), PS3.3 C.8.15.3.8.
_GROUPS = {
    "BRAIN": Sharpness.SOFT, "SOFT_TISSUE": Sharpness.SOFT, "LUNG": Sharpness.SHARP, "BONE": Sharpness.SHARP,
}  # fmt: skip

# Siemens: a family of one letter up to about 2013 (B body, H head, C child head, I and J iterative, D and Q dual
# energy, U ultra high), of two since (Br body regular, Bl body lung, Hr head regular ...). The number is the
# sharpness; the older scale counts 50 where the newer one counts about 46.
_SIEMENS_OLD = re.compile(r"^A?[BCDHIJQSU](\d\d)[A-Z]?$")
_SIEMENS_NEW = re.compile(r"^([BHQSU][A-Z])(\d\d)[A-Z]?$")
_OLD_MEDIUM, _OLD_SHARP = 45, 60
_NEW_MEDIUM, _NEW_SHARP = 48, 54

# Philips (and Neusoft's first scanners, built to the same software): one letter from smooth to sharp, L lung,
# Y: the same for high resolution; C, U, X and S in front: cardiac, brain, cardiac iterative, standard.
_PHILIPS = {
    "A": Sharpness.SOFT, "B": Sharpness.SOFT, "C": Sharpness.MEDIUM, "D": Sharpness.SHARP, "E": Sharpness.SHARP,
    "F": Sharpness.SHARP, "L": Sharpness.SHARP,
    "EA": Sharpness.SOFT, "EB": Sharpness.SOFT, "EC": Sharpness.MEDIUM,
    "YA": Sharpness.SHARP, "YB": Sharpness.SHARP, "YC": Sharpness.SHARP, "YD": Sharpness.SHARP,
    "CA": Sharpness.SOFT, "CB": Sharpness.SOFT, "CC": Sharpness.MEDIUM, "CD": Sharpness.SHARP,
    "XCA": Sharpness.SOFT, "XCB": Sharpness.SOFT, "XCC": Sharpness.MEDIUM, "XCD": Sharpness.SHARP,
    "UA": Sharpness.SOFT, "UB": Sharpness.SOFT, "UC": Sharpness.MEDIUM,
    "SA": Sharpness.SOFT, "SB": Sharpness.SOFT, "SC": Sharpness.MEDIUM,
}  # fmt: skip

# Canon and Toshiba FC00 to FC89 by tens: body with and without beam hardening correction (0, 1), head (2, 4, 6),
# bone and inner ear (3), lung (5), special (7), high resolution (8).
_CANON = re.compile(r"^FC-?(\d\d)(-?[A-Z0-9]+)?$")
_CANON_SHARP_TENS = frozenset((3, 5, 8))
_CANON_MEDIUM = frozenset((4, 5, 9, 14, 15, 16))

# United Imaging: organ, sharpness, grade (B_SOFT_B, H_VSHARP_C).
_UNITED_IMAGING = re.compile(r"^[A-Z]{1,2}_(V?SOFT|V?SHARP|MID|STD)(_|$)")

# Neusoft: F10 to F30 are soft-tissue filters; lung and bone carry the word.
_NEUSOFT = re.compile(r"^[FS][F]?(10|20|30)$")

_NOT_PHILIPS = ("GE ", "SIEMENS", "TOSHIBA", "CANON", "UIH", "UNITED", "HITACHI", "FUJI")


def sharpness_of_header(header: Dataset) -> Sharpness:
    """Return the sharpness that a CT header names.

    Parameters
    ----------
    header
        Attributes of a slice, functional groups flattened; Convolution Kernel, its group and Manufacturer are read.
    """
    named = sharpness_of_name(at.words(header, "ConvolutionKernel"), at.word(header, "Manufacturer"))
    if named is not Sharpness.UNKNOWN:
        return named
    return _GROUPS.get(at.word(header, "ConvolutionKernelGroup").upper(), Sharpness.UNKNOWN)


def kernel_name(header: Dataset) -> str:
    """Return Convolution Kernel as it is shown, its values joined by a blank; "" where it is absent."""
    return " ".join(value for value in at.words(header, "ConvolutionKernel") if value)


def sharpness_of_name(names: Sequence[str], manufacturer: str = "") -> Sharpness:
    """Return the sharpness of a kernel by its name.

    Parameters
    ----------
    names
        The values of Convolution Kernel: the name, then often the strength of an iterative reconstruction.
    manufacturer
        Manufacturer (0008,0070); a single letter means a Philips kernel where it names no other vendor.
    """
    vendor = manufacturer.strip().upper() + " "
    for name in names:
        for found in (_of_name(name.strip().upper()), *(_of_token(t, vendor) for t in _tokens(name.upper()))):
            if found is not Sharpness.UNKNOWN:
                return found
    return Sharpness.UNKNOWN


def _tokens(name: str) -> list[str]:
    """Split "59 .21.B50S" and "LUNG ENHANCED (YB)" into their words."""
    return [token for token in re.split(r"[^A-Z0-9_+-]+", name) if token]


def _of_name(name: str) -> Sharpness:
    united = _UNITED_IMAGING.match(name)
    if united:
        return Sharpness.SHARP if "SHARP" in united[1] else Sharpness.SOFT
    if name.startswith("BODY_SHARP"):
        # Canon's deep-learning reconstruction: a crisper soft-tissue image; LUNG and BONE have names of their own
        return Sharpness.MEDIUM
    return next(
        (found for found, words in _PLAIN_WORDS.items() if any(word in name for word in words)), Sharpness.UNKNOWN
    )


def _of_token(token: str, vendor: str) -> Sharpness:
    if match := _SIEMENS_NEW.match(token):
        return Sharpness.SHARP if match[1] == "BL" else _graded(int(match[2]), _NEW_MEDIUM, _NEW_SHARP)
    if match := _SIEMENS_OLD.match(token):
        return _graded(int(match[1]), _OLD_MEDIUM, _OLD_SHARP)
    if match := _CANON.match(token):
        number = int(match[1])
        if number // 10 in _CANON_SHARP_TENS:
            return Sharpness.SHARP
        return Sharpness.MEDIUM if number in _CANON_MEDIUM else Sharpness.SOFT
    if _NEUSOFT.match(token) and "NEUSOFT" in vendor:
        return Sharpness.SOFT
    if not vendor.startswith(_NOT_PHILIPS):
        return _PHILIPS.get(token, Sharpness.UNKNOWN)
    return Sharpness.UNKNOWN


def _graded(number: int, medium: int, sharp: int) -> Sharpness:
    if number < medium:
        return Sharpness.SOFT
    return Sharpness.MEDIUM if number < sharp else Sharpness.SHARP
