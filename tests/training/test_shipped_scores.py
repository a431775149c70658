"""What the shipped network must say about generated and about real CT, at the default thresholds of the grades.

The network saw the real series in training: this guards what is shipped. How it does on series it never saw is measured
by the held-out folds and stands in the card.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from dicom_qa_node.config import Grades
from dicom_qa_node.models.registry import DEFAULT_MODEL
from dicom_qa_node.phantom.ct_acquisition import NAMED
from dicom_qa_node.phantom.volumes import ct_volume
from dicom_qa_node.score import display_images
from dicom_qa_node.score.inference import Scorer
from training import degrade
from training.data.prepare_severity import noise_level, read_series

SHARED_DATA = Path(os.environ.get("QA_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
SERIES = ("ACRIN-FLT-Breast_013_petct_CT49", "C3L-00189_lungbase35", "C3N-00247_chest60", "C4KC-KiTS-00072_abd18")
GRADES = Grades()


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.open(DEFAULT_MODEL, "cpu")


@pytest.mark.parametrize("seed", [3, 11])
def test_generated_studies_rank_routine_above_a_tenth_above_sparse_views(scorer: Scorer, seed: int) -> None:
    scores = {}
    for name in ("routine", "tenth_dose", "sparse_views"):
        volume = ct_volume(seed, np.array([-120.0, -20.0, 80.0]), 512, 420.0, NAMED[name])
        pictures = np.stack([display_images.ct_display_image(hu) for hu in volume.voxels])
        scores[name] = float(scorer.score(pictures, "ct").score.mean())
    assert scores["routine"] > scores["tenth_dose"] + 0.3 > scores["sparse_views"] + 0.6
    assert scores["routine"] >= GRADES.diagnostic > scores["tenth_dose"]


@pytest.mark.realdata
@pytest.mark.parametrize("name", SERIES)
def test_routine_series_is_diagnostic_and_its_twentieth_is_not(scorer: Scorer, name: str) -> None:
    series = read_series(SHARED_DATA / "dicom" / "ct" / name, name)
    window = display_images.window_for_kernel(series.kernel)
    rng = np.random.default_rng(1)
    routine, twentieth = [], []
    for index in np.linspace(3, len(series.voxels) - 4, 5).round().astype(int):
        hu = series.voxels[index]
        scan = degrade.scan_of(hu, series.spacing_mm[1], noise_level(hu))
        routine.append(display_images.ct_display_image(hu, window))
        twentieth.append(display_images.ct_display_image(degrade.low_dose(hu, scan, 0.05, rng), window))
    assert scorer.score(np.stack(routine), "ct").score.mean() >= GRADES.diagnostic
    assert scorer.score(np.stack(twentieth), "ct").score.mean() < GRADES.limited
