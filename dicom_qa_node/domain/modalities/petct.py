"""PET scored together with the CT of its study and frame of reference, as readers view it: fused."""

from __future__ import annotations

from dataclasses import replace

from dicom_qa_node.domain.modalities import pt
from dicom_qa_node.domain.results import SeriesKind

__all__ = ["KIND"]

KIND = replace(pt.KIND, kind=SeriesKind.PETCT, pairs_with="CT", min_overlap=0.2)
