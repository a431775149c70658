"""What the node must know of one kind of study; each file beside this one states it for one kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dicom_qa_node.records import SeriesKind

__all__ = ["Kind"]


@dataclass(frozen=True)
class Kind:
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
