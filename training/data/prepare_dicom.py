"""Prepare your own CT series as a source of clean slices: degraded by physics at known dose, views and blur.

    python -m training.data.prepare_dicom --source DIR --out POOLS/own_ct

``DIR`` is searched with all its folders for axial CT images. The slices of a series are sorted along z and degraded
as those of ``prepare_severity``; all series of one Patient ID are one group. Names in the pool are hashes: no
identifier of a patient is written. A series that cannot be used is named with its reason and left out.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import Dataset
from pydicom.errors import InvalidDicomError

from training.data.prepare_severity import ct_rows, series_of
from training.pool import Row, write_pool

__all__ = ["find_series", "main"]

_CT = "1.2.840.10008.5.1.4.1.1.2"
_AXIAL = 0.9
_FEWEST = 14


def find_series(folder: Path) -> dict[str, list[Path]]:
    """Return the files of axial CT slices by Series Instance UID, everything else left aside."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except InvalidDicomError:
            continue
        if _is_axial_slice(header):
            found[str(header.SeriesInstanceUID)].append(path)
    return dict(found)


def _is_axial_slice(header: Dataset) -> bool:
    if header.get("SOPClassUID") != _CT or "ImagePositionPatient" not in header:
        return False
    if "LOCALIZER" in header.get("ImageType", []):
        return False
    across, down = np.split(np.asarray(header.get("ImageOrientationPatient", np.zeros(6)), np.float64), 2)
    return bool(abs(np.cross(across, down)[2]) > _AXIAL)


def rows_of(files: list[Path], rng: np.random.Generator) -> Iterator[tuple[npt.NDArray[np.uint8], Row]]:
    """Degrade one series; its names are replaced by hashes."""
    headers = [pydicom.dcmread(path) for path in files]
    if len(headers) < _FEWEST:
        raise ValueError(f"{len(headers)} slices, {_FEWEST} are needed")
    patient = _hash(str(headers[0].get("PatientID", "")) or str(headers[0].StudyInstanceUID))
    series = series_of(headers, _hash(str(headers[0].SeriesInstanceUID)))
    for picture, row in ct_rows(series, rng):
        slice_id = f"own/{row.slice_id}"
        yield picture, Row(f"own/{patient}", slice_id, "ct", "simulated", row.score, row.levels, "", row.factors)


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def main() -> None:
    """Write the pool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=20)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    pairs: list[tuple[npt.NDArray[np.uint8], Row]] = []
    for uid, files in sorted(find_series(arguments.source).items()):
        try:
            pairs += rows_of(files, rng)
        except (ValueError, AttributeError) as error:
            sys.stderr.write(f"series {uid} is left out: {error}\n")
    if not pairs:
        raise SystemExit(f"{arguments.source} holds no CT series that can be used")
    write_pool(arguments.out, [picture for picture, _ in pairs], [row for _, row in pairs])


if __name__ == "__main__":
    main()
