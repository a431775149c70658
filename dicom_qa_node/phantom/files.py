"""Write generated data sets as Part 10 files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydicom.dataset import Dataset


def write(datasets: Iterable[Dataset], folder: Path) -> list[Path]:
    """Save each data set as ``<folder>/<SOP Instance UID>.dcm``; an instance given twice is numbered.

    Returns
    -------
    list[Path]
        The files, in the order of the data sets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken: dict[str, int] = {}
    paths = []
    for ds in datasets:
        uid = str(ds.SOPInstanceUID)
        again = taken.get(uid, 0)
        taken[uid] = again + 1
        path = folder / (f"{uid}-{again}.dcm" if again else f"{uid}.dcm")
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
