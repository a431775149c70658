"""Positron emission tomography alone, in SUV (PS3.3 A.21, A.56, A.72)."""

from __future__ import annotations

from dicom_qa_node.domain.modalities import ModalityClass
from dicom_qa_node.domain.results import SeriesKind

__all__ = ["KIND"]

KIND = ModalityClass(
    kind=SeriesKind.PT,
    modality="PT",
    unit="SUVbw",
    image_classes=frozenset({"1.2.840.10008.5.1.4.1.1.128"}),
    frame_classes=frozenset({"1.2.840.10008.5.1.4.1.1.130", "1.2.840.10008.5.1.4.1.1.128.1"}),
    body_above=0.15,
    left_out={
        "REPROJECTION": "projection image",
        "SCREEN SAVE": "screen picture",
        "SCREENSHOT": "screen picture",
        "LOCALIZER": "localizer",
    },
)
