"""The demo's picture of a series: the pictures that the network saw, with the scores of the running node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dicom_qa_node.cli.contact_sheet import save_sheet, tiles_of
from dicom_qa_node.cli.demo_studies import DemoSeries
from dicom_qa_node.cli.present import score_text
from dicom_qa_node.records import SeriesResult
from dicom_qa_node.score.assemble import assemble
from dicom_qa_node.score.display import display_pictures
from dicom_qa_node.score.pairing import pair

__all__ = ["save_series_sheet"]


def save_series_sheet(folder: Path, study: DemoSeries, paired: Sequence[Path], result: SeriesResult) -> Path:
    """Write the salient slices of a series with their scores to ``folder`` and return the file.

    ``paired`` are the files of the CT of a PET, empty for a CT.
    """
    (volume,) = assemble(study.files)
    ct = pair(volume, assemble(paired)).ct if paired else None
    pictures = display_pictures(volume, [item.index for item in result.slices], ct)
    name = "".join(letter if letter.isalnum() else "-" for letter in study.label.lower()).strip("-")
    title = f"{study.label}: {score_text(result)} {result.grade or ''}"
    return save_sheet(folder / f"{name}.png", title, tiles_of(result, pictures))
