"""Which stacks are not acquired axial slices, and so get no grade: reformats, and projections on their way round."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.score.slice_geometry import normal_of, plane_of
from dicom_qa_node.score.slice_headers import LeftOut
from dicom_qa_node.score.stacks import Stack
from dicom_qa_node.score.volume import Volume

__all__ = ["reformatted", "without_projections"]

_REFORMATS = frozenset({"MPR", "REFORMATTED", "REFORMAT", "CURVED", "CPR", "MPR_THIN", "MPR_THICK"})
_FEWEST_VIEWS = 6
_MOST_OBLIQUE_DEG = 45.0


def reformatted(volume: Volume) -> str:
    """Return why a stack was not acquired as it lies, "" where it was."""
    plane, _ = plane_of(np.cross(volume.direction[:, 2], volume.direction[:, 1]))
    if plane != "axial":
        return f"the slices are {plane}: a reformat or a localizer, and the model judges axial slices"
    words = {word for value in at.words(volume.header, "ImageType") for word in value.upper().split()}
    if words & _REFORMATS:
        return "the slices are reformatted from others (Image Type (0008,0008)), whose noise and resolution are lost"
    return ""


def without_projections(stacks: Sequence[Stack]) -> tuple[list[Stack], list[LeftOut]]:
    """Take single pictures from many directions, as a rotating projection is sent, out of a series' stacks."""
    views = [stack for stack in stacks if len(stack.slices) == 1 and not _axial(stack)]
    if len(views) < _FEWEST_VIEWS:
        return list(stacks), []
    reason = f"it is one of {len(views)} single pictures, each from another direction"
    left = [LeftOut(stack.slices[0].sop_instance_uid, "projection image", reason) for stack in views]
    return [stack for stack in stacks if stack not in views], left


def _axial(stack: Stack) -> bool:
    plane, angle = plane_of(normal_of(stack.slices[0].orientation))
    return plane == "axial" and angle < _MOST_OBLIQUE_DEG
