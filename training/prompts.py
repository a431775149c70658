"""What the training tells a network that takes prompts about a picture: its kind, and what its header told."""

from __future__ import annotations

from pydicom import Dataset

from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.models.text_prompt import Prompt
from dicom_qa_node.score.grading import region_of, type_of
from training.pool import Row

__all__ = ["factors_of_header", "prompt_of_row"]


def prompt_of_row(row: Row) -> Prompt:
    """Return the prompt of one row; what its table does not say is unknown."""
    return Prompt(modality=row.kind, **row.factors)


def factors_of_header(header: Dataset, kind: SeriesKind) -> dict[str, str]:
    """Return the factors of a slice of a series, for `pool.Row`."""
    factors = {"dimension": "3d", "region": region_of(header), "type": type_of(header, kind)}
    return {name: value for name, value in factors.items() if value}
