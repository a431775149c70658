"""Which CT a PET is fused with: the one rule of the node, the command line and the Python API.

Of all CT stacks of the study and frame of reference (PS3.3 C.7.4.1): the axial original one that covers most of the
PET, then the soft kernel that is meant for attenuation correction, then the slice thickness nearest to the PET's.
Localizers, reformats, projections and other planes never.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.score.convolution_kernels import Sharpness, sharpness_of_header
from dicom_qa_node.score.slice_geometry import normal_of
from dicom_qa_node.score.stack_pixels import read_header
from dicom_qa_node.score.stacks import Stack

__all__ = ["CtStack", "rank_ct_stacks"]

_PARALLEL = 0.9
_COVERAGE_STEP = 0.05
"""Coverages nearer to each other than this are alike: the ends of the tables of PET and CT differ by a slice or two."""

_BODY_MM = 480.0
"""A field of view from which on the CT shows a usual body whole."""

_REFORMATS = frozenset({
    "LOCALIZER", "MPR", "REFORMATTED", "PROJECTION IMAGE", "MIP", "MINIP", "MAX_IP", "MIN_IP", "MAXIP", "AIP", "CPR",
    "CURVED", "THICK MPR", "VRT", "SSD", "RENDERED", "SUBTRACTED",
})  # fmt: skip
_FOR_CORRECTION = re.compile(r"\b(CT)?AC(CT)?\b|ATTENUATION|\bMAC\b|LOW ?-?DOSE|\bLD(CT)?\b|NIEDRIGDOSIS")
_BY_SHARPNESS = {Sharpness.SOFT: 3, Sharpness.MEDIUM: 2, Sharpness.UNKNOWN: 2, Sharpness.SHARP: 1}


@dataclass(frozen=True, slots=True)
class CtStack:
    """A CT stack that a PET can be fused with; ``coverage`` is the share (0-1) of the PET that it covers."""

    stack: Stack
    series_instance_uid: str
    coverage: float


def rank_ct_stacks(pet: Stack, stacks: Sequence[Stack]) -> tuple[list[CtStack], str]:
    """Return the CT stacks that a PET stack can be fused with, the best first; and why there is none.

    Parameters
    ----------
    pet
        The PET stack.
    stacks
        CT stacks of any number of series.
    """
    header = read_header(pet.slices[0])
    frame, study = (at.uid(header, keyword) for keyword in ("FrameOfReferenceUID", "StudyInstanceUID"))
    ranked: list[tuple[tuple[float, ...], CtStack]] = []
    refused: list[str] = []
    for stack in stacks:
        ct = read_header(stack.slices[0])
        reason = _unfit(pet, stack, ct, frame, study)
        if reason:
            refused.append(reason)
            continue
        found = CtStack(stack, stack.slices[0].series_instance_uid, _coverage(pet, stack))
        ranked.append((_merit(pet, stack, ct, found.coverage), found))
    ranked.sort(key=lambda item: (*(-value for value in item[0]), item[1].series_instance_uid, item[1].stack.name))
    return [found for _, found in ranked], "" if ranked else next(iter(dict.fromkeys(refused)), "")


def _unfit(pet: Stack, stack: Stack, ct: Dataset, frame: str, study: str) -> str:
    """Return why a CT stack can never be fused with a PET, "" where it can."""
    if not frame or at.uid(ct, "FrameOfReferenceUID") != frame:
        return "its Frame of Reference UID (0020,0052) is another"
    if study and at.uid(ct, "StudyInstanceUID") not in ("", study):
        return "it belongs to another study"
    kinds = {
        word for value in at.words(ct, "ImageType") for word in (value.upper(), *re.split(r"[ _]+", value.upper()))
    }
    if kinds & _REFORMATS:
        return "it is a reformatted series or a projection"
    if abs(float(normal_of(pet.slices[0].orientation) @ normal_of(stack.slices[0].orientation))) < _PARALLEL:
        return "its slices lie in another plane than those of the PET"
    return ""


def _merit(pet: Stack, stack: Stack, ct: Dataset, coverage: float) -> tuple[float, ...]:
    """Return what decides between fit stacks, each larger where better."""
    description = " ".join(at.text(ct, keyword) for keyword in ("SeriesDescription", "ProtocolName")).upper()
    meant = _FOR_CORRECTION.search(description.replace("_", " ")) is not None
    wanted, given = (_thickness_mm(stack) for stack in (pet, stack))
    original = at.word(ct, "ImageType").upper() != "DERIVED"
    return (
        round(coverage / _COVERAGE_STEP),
        float(original),
        float(max(_BY_SHARPNESS[sharpness_of_header(ct)], 3 if meant else 0)),
        float(meant),
        -round(abs(np.log(given / wanted)), 1),
        float(len(stack.slices)),
    )


def _coverage(pet: Stack, ct: Stack) -> float:
    """Return the share of a PET's length, and of a body across it, that a CT covers."""
    normal = normal_of(pet.slices[0].orientation)
    here, there = (_places(stack, normal) for stack in (pet, ct))
    low, high = max(here[0], there[0]), min(here[1], there[1])
    along = max(high - low, 0.0) / max(here[1] - here[0], 1e-6)
    across = min(_field_mm(ct) / min(_field_mm(pet), _BODY_MM), 1.0)
    return min(along, 1.0) * across


def _places(stack: Stack, normal: np.typing.NDArray[np.float64]) -> tuple[float, float]:
    """Return the first and the last millimetre of a stack along a normal."""
    along = np.array([item.origin_mm for item in (stack.slices[0], stack.slices[-1])]) @ normal
    half = _thickness_mm(stack) / 2
    return float(along.min() - half), float(along.max() + half)


def _thickness_mm(stack: Stack) -> float:
    thickness = stack.slices[0].thickness_mm
    if thickness is not None and thickness > 0:
        return thickness
    gaps = np.diff(stack.positions_mm)
    return float(np.median(gaps)) if gaps.size and float(np.median(gaps)) > 0 else 1.0


def _field_mm(stack: Stack) -> float:
    first = stack.slices[0]
    return min(first.pixels.rows * first.spacing_mm[0], first.pixels.columns * first.spacing_mm[1])
