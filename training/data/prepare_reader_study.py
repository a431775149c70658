"""Prepare the CT reader study (MTD-GAN, doi 10.1109/TMI.2024.3449647): one composite score per rated slice.

The composite is the mean of three shares, times four: closeness of the noise rating to routine (7; 1 is the
quarter-dose anchor, 14 the most over-smoothed), contrast (1-5) and structure (1-5). Ratings above the scale are typos
and leave the slice out. The LDCT and NDCT rows are anchors of the readers' scale, not ratings: NDCT is kept
with the routine score and the role ``simulated``, LDCT is left out. Abdominal NDCT slices, read back to HU through
their window, also give slices of simulated dose and views.

    python -m training.data.prepare_reader_study --source ../shared/data/ct_reader_study --out POOL
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dicom_qa_node.score.display_images import Window, ct_display_image
from training import degrade
from training.data.prepare_severity import ct_versions, noise_level
from training.pool import Row, write_pool
from training.severity import ROUTINE_SCORE

_ROUTINE_NOISE = 7.0
_ABDOMEN = Window("reader study abdomen", 40.0, 400.0)
_PIXEL_MM = 0.7
_REGIONS = {"abdomen": "abdomen", "brain": "head"}
_READERS = ("r1", "r2", "r3")


def composite(noise: float, contrast: float, structure: float) -> float:
    """Return the composite 0-4 of mean ratings (noise 1-14, contrast 1-5, structure 1-5)."""
    reach = _ROUTINE_NOISE - 1 if noise < _ROUTINE_NOISE else 14 - _ROUTINE_NOISE
    shares = (1 - abs(noise - _ROUTINE_NOISE) / reach, (contrast - 1) / 4, (structure - 1) / 4)
    return 4 * sum(shares) / len(shares)


def score_of(record: dict[str, str]) -> float | None:
    """Return the composite of one CSV row, or None for a row with a rating off its scale."""
    ratings = {
        what: [float(record[f"{reader}_{what}"]) for reader in _READERS] for what in ("noise", "contrast", "structure")
    }
    off_scale = max(ratings["contrast"] + ratings["structure"]) > 5 or max(ratings["noise"]) > 14
    if off_scale:
        return None
    return composite(*(float(np.mean(ratings[what])) for what in ("noise", "contrast", "structure")))


def simulated(
    pixels: npt.NDArray[np.uint8], group: str, rng: np.random.Generator
) -> Iterator[tuple[npt.NDArray[np.uint8], Row]]:
    """Degrade one abdominal routine-dose slice of grey levels; its pixel size is not published, 0.7 mm is taken."""
    low = _ABDOMEN.centre_hu - _ABDOMEN.width_hu / 2
    hu = np.asarray(pixels.astype(np.float32) / 255 * _ABDOMEN.width_hu + low, np.float32)
    hu[pixels == 0] = -1000.0
    scan = degrade.scan_of(hu, _PIXEL_MM, noise_level(hu))
    for image, levels, score in ct_versions(hu, scan, _PIXEL_MM, rng):
        factors = {"dimension": "2d", "region": "abdomen", "type": "soft"}
        row = Row(group, f"{group}/simulated", "ct", "simulated", score, levels, factors=factors)
        yield ct_display_image(image, _ABDOMEN)[..., 0], row


def main() -> None:
    """Write the pool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    images: list[npt.NDArray[np.uint8]] = []
    rows: list[Row] = []
    rng = np.random.default_rng(20)
    with (arguments.source / "scores_newest.csv").open(newline="") as stream:
        for record in csv.DictReader(stream):
            anchor = record["label"] in {"LDCT", "NDCT"}
            score = ROUTINE_SCORE if anchor else score_of(record)
            if record["label"] == "LDCT" or score is None:
                continue
            with Image.open(arguments.source / record["file"]) as image:
                pixels = np.asarray(image.convert("L"))
            images.append(pixels)
            # brain and abdomen sets of one number are different patients
            group = f"reader/{record['region']}/{record['set']}"
            role = "simulated" if anchor else "rated"
            factors = {"dimension": "2d", "region": _REGIONS[record["region"]], "type": "soft"}
            rows.append(Row(group, group, "ct", role, score, {}, record["file"], factors))
            if anchor and record["region"] == "abdomen":
                for picture, row in simulated(pixels, group, rng):
                    images.append(picture)
                    rows.append(row)
    write_pool(arguments.out, images, rows)


if __name__ == "__main__":
    main()
