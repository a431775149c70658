"""Writes the reviewed series as a labelled set: pictures and table, as ``training/`` reads them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.models.card import SCORE_SCALE
from dicom_qa_node.quality_log.reviews import COLUMNS, Reviews, labelled_slices, line_of
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.rendered_images import display_name

__all__ = ["LABELS", "PICTURES", "SCALE", "Exported", "export_labels"]

PICTURES = "images"
LABELS = "labels.csv"
SCALE = "scale.json"


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written; ``missing`` counts slices whose picture is no longer in the spool."""

    series: int
    pictures: int
    missing: int


def export_labels(database: Database, spool: Path, folder: Path) -> Exported:
    """Copy the picture of every reviewed slice to ``folder/images`` and write ``folder/labels.csv``, the table last.

    ``folder/scale.json`` says what the points of a score mean, as the card of every model and the review form do.

    Raises
    ------
    Permanent
        The folder holds a table already: an export never overwrites one.
    """
    table = folder / LABELS
    if table.exists():
        raise Permanent(f"{table} exists; export into a new folder")
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    layout, lines = SpoolLayout(spool), [line_of(COLUMNS)]
    series, missing = 0, 0
    for label in Reviews(database).labels():
        series += 1
        for item in labelled_slices(label):
            source = layout.pictures(item.series_instance_uid, item.version) / display_name(item.number)
            if not source.is_file():
                missing += 1
                continue
            shutil.copyfile(source, folder / PICTURES / item.file)
            lines.append(line_of((item.file, f"{item.score:.4f}", item.reference, item.kind)))
    (folder / SCALE).write_text(json.dumps(SCORE_SCALE, indent=1) + "\n")
    partial = table.with_name(f".{LABELS}.part")
    partial.write_text("".join(lines))
    partial.replace(table)
    return Exported(series, len(lines) - 1, missing)
