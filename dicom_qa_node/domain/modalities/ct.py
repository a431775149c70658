"""Computed tomography, in Hounsfield units (PS3.3 A.3, A.38, A.70)."""

from __future__ import annotations

from dicom_qa_node.domain.modalities import ModalityClass
from dicom_qa_node.domain.results import SeriesKind

__all__ = ["KIND"]

KIND = ModalityClass(
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
    },
)
