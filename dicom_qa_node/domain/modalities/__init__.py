"""One file per kind of study: SOP classes, units, what is left out, pairing; free of torch and of any reader.

A new kind is one new file with a ``KIND``; it is found automatically.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from dicom_qa_node.domain.results import SeriesKind

__all__ = ["ModalityClass", "modality_class_for", "modality_class_of", "modality_classes", "storage_classes"]


@cache
def modality_classes() -> tuple[ModalityClass, ...]:
    """Return every kind of study, by file name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "kind")
    return tuple(importlib.import_module(f"{__name__}.{name}").KIND for name in names)


def modality_class_of(kind: SeriesKind) -> ModalityClass:
    """Return the facts of one kind."""
    return next(found for found in modality_classes() if found.kind is kind)


def modality_class_for(sop_class_uid: str) -> ModalityClass | None:
    """Return the unpaired kind whose slices have this SOP class, None if no kind has."""
    found = (kind for kind in modality_classes() if sop_class_uid in kind.storage_classes and not kind.pairs_with)
    return next(found, None)


def storage_classes() -> frozenset[str]:
    """Every SOP Class UID that may hold slices of some kind."""
    return frozenset().union(*(kind.storage_classes for kind in modality_classes()))


@dataclass(frozen=True)
class ModalityClass:
    """The facts of one kind of picture.

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
