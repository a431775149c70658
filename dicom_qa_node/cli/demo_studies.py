"""The studies of the demo: one CT at three qualities and one PET/CT, generated and written to disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_qa_node.phantom import ct_series, identity_of, petct_study, phantom_uid, write

__all__ = ["CT_BEST_FIRST", "DemoSeries", "count", "make_studies"]

_SEED = 7
_SLICES = 24
_SPACING_MM = 5.0
_PETCT_SLICES = 30

#: Qualities of the CT with their labels, the best first; their scores must come out in this order.
CT_BEST_FIRST = {
    "routine": "CT, routine dose",
    "tenth_dose": "CT, a tenth of the dose",
    "sparse_views": "CT, sparse views",
}


@dataclass(frozen=True, slots=True)
class DemoSeries:
    """One generated series; ``quality`` is that of the CT, "" for the PET/CT."""

    label: str
    quality: str
    series_instance_uid: str
    modality: str
    files: tuple[Path, ...]


def count() -> int:
    """Return how many series `make_studies` makes."""
    return len(CT_BEST_FIRST) + 2


def make_studies(folder: Path, run: str) -> Iterator[DemoSeries]:
    """Generate the series one after the other; ``run`` makes their UIDs new, the pictures are always the same."""
    ct_study = replace(
        identity_of(_SEED),
        study_uid=phantom_uid(_SEED, "demo", run, "ct"),
        study_description="CT chest abdomen",
    )
    for number, (quality, label) in enumerate(CT_BEST_FIRST.items(), start=2):
        images = ct_series(
            _SEED,
            _SLICES,
            quality=quality,
            spacing_mm=_SPACING_MM,
            thickness_mm=_SPACING_MM,
            identity=ct_study,
            series_number=number,
        )
        yield _written(label, quality, images, folder)
    petct = replace(
        identity_of(_SEED, "petct"),
        study_uid=phantom_uid(_SEED, "demo", run, "petct"),
        study_description="PET/CT FDG",
        body_part="WHOLEBODY",
        protocol="PET CT Oncology",
    )
    ct, pet = petct_study(_SEED, ct_slices=_PETCT_SLICES, identity=petct)
    yield _written("CT of the PET/CT, low dose", "", ct, folder)
    yield _written("PET/CT", "", pet, folder)


def _written(label: str, quality: str, images: list[Dataset], folder: Path) -> DemoSeries:
    uid = str(images[0].SeriesInstanceUID)
    return DemoSeries(label, quality, uid, str(images[0].Modality), tuple(write(images, folder / uid)))
