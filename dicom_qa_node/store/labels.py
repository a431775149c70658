"""Reviews as the label table that ``training/`` reads: one line per judged slice, without anything of the patient."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dicom_qa_node.spool.layout import uid_key
from dicom_qa_node.store.reviews import Label

__all__ = ["COLUMNS", "LabelledSlice", "label_lines", "labelled_slices"]

COLUMNS = ("file", "score", "reference", "kind")


@dataclass(frozen=True, slots=True)
class LabelledSlice:
    """One line: slice ``number`` (from 1) of a reviewed version, and the name its picture has in the set.

    Every slice carries the score of its series. ``reference`` keeps the slices of one study together, so that they are
    never split between training and judging.
    """

    file: str
    score: float
    reference: str
    kind: str
    series_instance_uid: str
    version: int
    number: int


def labelled_slices(label: Label) -> Iterator[LabelledSlice]:
    """Yield the slices of one reviewed version; their names are keys of UIDs, not the UIDs."""
    for number in range(1, len(label.result.slices) + 1):
        yield LabelledSlice(
            file=f"{uid_key(label.series_instance_uid)}-v{label.version}-{number}.png",
            score=label.score,
            reference=uid_key(label.study_instance_uid),
            kind=label.result.kind.value,
            series_instance_uid=label.series_instance_uid,
            version=label.version,
            number=number,
        )


def label_lines(labels: Iterable[Label]) -> Iterator[str]:
    """Yield the table as CSV, the heading first."""
    yield line_of(COLUMNS)
    for label in labels:
        for item in labelled_slices(label):
            yield line_of((item.file, f"{item.score:.4f}", item.reference, item.kind))


def line_of(values: Iterable[str]) -> str:
    """Return one line of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(list(values))
    return text.getvalue()
