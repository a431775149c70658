"""The demo's picture of a series, drawn from the generated files and the verdict of the running node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread

from dicom_qa_node.cli.contact_sheet import Tile, save_sheet
from dicom_qa_node.cli.demo_studies import DemoSeries
from dicom_qa_node.cli.present import score_text
from dicom_qa_node.records import SeriesResult
from dicom_qa_node.score.prepare import SOFT_TISSUE, ct_picture, pt_picture

__all__ = ["save_series_sheet"]


def save_series_sheet(folder: Path, study: DemoSeries, result: SeriesResult) -> Path:
    """Write the salient slices of a series with their scores to ``folder`` and return the file."""
    by_uid = {path.stem: path for path in study.files}
    tiles = [
        Tile(
            _picture(dcmread(by_uid[item.sop_instance_uid])),
            (f"score {item.score:.2f}  weight {item.weight:.2f}", f"slice {item.index}, {item.position_mm:.0f} mm"),
        )
        for item in result.slices
        if item.sop_instance_uid in by_uid
    ]
    name = "".join(letter if letter.isalnum() else "-" for letter in study.label.lower()).strip("-")
    title = f"{study.label}: {score_text(result)} {result.grade or ''}"
    return save_sheet(folder / f"{name}.png", title, tiles)


def _picture(image: Dataset) -> npt.NDArray[np.uint8]:
    values = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
    if image.Modality == "CT":
        return ct_picture(values, SOFT_TISSUE)
    # The demo's PET is in Bq/ml; a share of its own maximum is enough to look at.
    return pt_picture(6.0 * values / max(float(values.max()), 1.0))
