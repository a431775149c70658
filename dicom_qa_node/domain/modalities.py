"""Modality classes: CT, PET, and PET fused with CT; SOP classes, units, what is left out, pairing.

A new one is an entry of `modality_classes`. Free of torch, numpy and of any reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dicom_qa_node.domain.results import SeriesKind

__all__ = ["ModalityClass", "modality_class_for", "modality_class_of", "modality_classes", "storage_classes"]


@dataclass(frozen=True)
class ModalityClass:
    """What the node knows of one modality class.

    Attributes
    ----------
    kind
        The word under which results of this kind stand in the log.
    modality
        Modality (0008,0060) of the series that is scored.
    pairs_with
        Modality of the second series of the picture, of the same study and frame of reference; "" for none.
    image_classes, frame_classes
        SOP Class UIDs whose instances are one slice, and many frames. Other objects in a series are left out.
    left_out
        Words in Image Type (0008,0008) that mark an object as no slice, with what to call it.
    unit
        Unit of the voxels where the headers allow it.
    body_above
        A voxel above this, in ``unit``, may belong to the patient.
    outside_below
        A voxel at or below this, in ``unit``, lies outside the scan circle.
    min_overlap
        Share of the scored series' length that the paired series must cover; below it the series is scored alone.
    """

    kind: SeriesKind
    modality: str
    unit: str
    image_classes: frozenset[str]
    frame_classes: frozenset[str]
    body_above: float
    outside_below: float | None = None
    pairs_with: str = ""
    min_overlap: float = 0.0
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def storage_classes(self) -> frozenset[str]:
        """Every SOP Class UID that may hold slices of this kind."""
        return self.image_classes | self.frame_classes


_CT = ModalityClass(
    kind=SeriesKind.CT,
    modality="CT",
    unit="HU",
    image_classes=frozenset({"1.2.840.10008.5.1.4.1.1.2"}),
    frame_classes=frozenset({"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"}),
    body_above=-300.0,
    # No tissue and no air is this low; vendors fill the corners with -2000, -3024, -8192 and the like.
    outside_below=-1500.0,
    left_out={
        "LOCALIZER": "localizer",
        "SCOUT": "localizer",
        "TOPOGRAM": "localizer",
        "DOSE": "dose screen",
        "DOSE_INFO": "dose screen",
        "SCREEN SAVE": "dose screen",
        "SCREENSHOT": "dose screen",
        "PROTOCOL": "protocol page",
        "PASTED": "screen picture",
        "VRT": "volume rendering",
        "VOLUME RENDERED": "volume rendering",
        "VOLUME_RENDER": "volume rendering",
        "MIP": "projection image",
        "MINIP": "projection image",
        "MAXIMUM INTENSITY": "projection image",
        "MAX_IP": "projection image",
        "MIN_IP": "projection image",
        "REPROJECTION": "projection image",
        "TOP": "localizer",
        "SCANOGRAM": "localizer",
        "SURVIEW": "localizer",
        "PILOT": "localizer",
    },
)
"""Computed tomography, in Hounsfield units (PS3.3 A.3, A.38, A.70)."""

_PT = ModalityClass(
    kind=SeriesKind.PT,
    modality="PT",
    unit="SUVbw",
    image_classes=frozenset({"1.2.840.10008.5.1.4.1.1.128"}),
    frame_classes=frozenset({"1.2.840.10008.5.1.4.1.1.130", "1.2.840.10008.5.1.4.1.1.128.1"}),
    body_above=0.15,
    left_out={
        "REPROJECTION": "projection image",
        "PROJECTION": "projection image",
        "MIP": "projection image",
        "MINIP": "projection image",
        "MAXIMUM INTENSITY": "projection image",
        "MAX_IP": "projection image",
        "MIN_IP": "projection image",
        "VOLUME RENDERED": "volume rendering",
        "PASTED": "screen picture",
        "DOSE": "dose screen",
        "PROTOCOL": "protocol page",
        "SCREEN SAVE": "screen picture",
        "SCREENSHOT": "screen picture",
        "LOCALIZER": "localizer",
    },
)
"""Positron emission tomography alone, in SUV (PS3.3 A.21, A.56, A.72)."""

_PETCT = replace(_PT, kind=SeriesKind.PETCT, pairs_with="CT", min_overlap=0.2)
"""PET scored together with the CT of its study and frame of reference, as readers view it: fused."""


def modality_classes() -> tuple[ModalityClass, ...]:
    """Return every modality class."""
    return _CT, _PETCT, _PT


def modality_class_of(kind: SeriesKind) -> ModalityClass:
    """Return the modality class of results of one kind."""
    return next(found for found in modality_classes() if found.kind is kind)


def modality_class_for(sop_class_uid: str) -> ModalityClass | None:
    """Return the unpaired modality class whose slices have this SOP class, None if none has."""
    found = (item for item in modality_classes() if sop_class_uid in item.storage_classes and not item.pairs_with)
    return next(found, None)


def storage_classes() -> frozenset[str]:
    """Return every SOP Class UID that may hold slices."""
    return frozenset().union(*(item.storage_classes for item in modality_classes()))
