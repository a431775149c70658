"""Decides whether a CT may be fused with a PET, and finds the CT slice that belongs to a PET slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.domain.modalities import modality_class_of
from dicom_qa_node.domain.results import Finding, SeriesKind, Severity
from dicom_qa_node.score.slice_selection import centres_along
from dicom_qa_node.score.volume import Volume

__all__ = ["Pairing", "ct_slice_at", "pair"]

_FULL = 0.98
_PARALLEL = 0.9


@dataclass(frozen=True, slots=True)
class Pairing:
    """The CT that a PET is fused with, None where it cannot be; the findings say why or how well."""

    ct: Volume | None
    findings: tuple[Finding, ...]


def pair(pet: Volume, candidates: Sequence[Volume]) -> Pairing:
    """Choose the CT stack that covers most of a PET.

    They must share the Frame of Reference UID (0020,0052) and cover a common length of the body; positions are
    compared in patient coordinates.
    """
    if not candidates:
        return Pairing(None, ())
    frame = at.word(pet.header, "FrameOfReferenceUID")
    same = [ct for ct in candidates if frame and at.word(ct.header, "FrameOfReferenceUID") == frame]
    if not same:
        reason = "its Frame of Reference UID (0020,0052) is another"
        return Pairing(None, (_alone(reason),))
    ct = max(same, key=lambda item: (_overlap(pet, item)[0], len(item.positions_mm)))
    share, length = _overlap(pet, ct)
    if share < modality_class_of(SeriesKind.PETCT).min_overlap:
        return Pairing(None, (_alone(f"it covers {100 * share:.0f} % of the PET's length"),))
    return Pairing(ct, tuple(_about_overlap(pet, ct, share, length)))


def ct_slice_at(pet: Volume, index: int, ct: Volume) -> int:
    """Return the CT slice nearest to a PET slice."""
    normal = np.cross(pet.direction[:, 2], pet.direction[:, 1])
    return int(np.abs(centres_along(ct, normal) - centres_along(pet, normal)[index]).argmin())


def _overlap(pet: Volume, ct: Volume) -> tuple[float, float]:
    """Return which share of the PET's length the CT covers, and that length in millimetres."""
    normal = np.cross(pet.direction[:, 2], pet.direction[:, 1])
    if abs(normal @ np.cross(ct.direction[:, 2], ct.direction[:, 1])) < _PARALLEL:
        return 0.0, 0.0
    here, there = centres_along(pet, normal), centres_along(ct, normal)
    half, ct_half = pet.spacing_mm[0] / 2, ct.spacing_mm[0] / 2
    low = max(here.min() - half, there.min() - ct_half)
    high = min(here.max() + half, there.max() + ct_half)
    length = max(float(high - low), 0.0)
    return length / float(here.max() - here.min() + 2 * half), length


def _about_overlap(pet: Volume, ct: Volume, share: float, length: float) -> Iterator[Finding]:
    evidence = f"{length:.0f} mm of PET and CT overlap, {100 * share:.0f} % of the PET's length"
    if share < _FULL:
        sentence = f"The CT covers {100 * share:.0f} % of the PET's length; only that part was scored as fused PET/CT."
        yield Finding("petct_partial_overlap", Severity.WARNING, sentence, evidence)
    size = [[n * s for n, s in zip(v.voxels.shape[1:], v.spacing_mm[1:], strict=True)] for v in (pet, ct)]
    if min(size[1]) < 0.9 * min(size[0]):
        sentence = f"The CT's field of view ({min(size[1]):.0f} mm) is smaller than the PET's ({min(size[0]):.0f} mm)."
        yield Finding("petct_field_of_view", Severity.INFO, sentence, evidence)


def _alone(reason: str) -> Finding:
    return Finding("petct_not_paired", Severity.WARNING, f"The PET was scored without its CT: {reason}.")
