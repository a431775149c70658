"""The comparison of slice rules: the same slices and noise for both, summed up per series."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from pydicom import Dataset

from dicom_qa_node.score.slice_selection import ChosenSlice
from training import degrade, slice_rules
from training.config import RunConfig
from training.pool import fold_of
from training.slice_rules import SeriesScore, compare, summary


class _Noise:
    """Scores 4 less the noise of a picture, in tens of grey levels."""

    def score(self, images, kind, prompts):
        assert kind == "ct"
        assert {(prompt.dimension, prompt.region, prompt.type) for prompt in prompts} == {("3d", "abdomen", "soft")}
        return SimpleNamespace(score=4 - np.asarray(images, np.float64)[..., 0].std(axis=(1, 2)) / 10)


@pytest.fixture
def volume(monkeypatch):
    def low_dose(hu, scan, dose, rng):
        return hu + rng.normal(0, 10 / np.sqrt(dose), hu.shape)

    monkeypatch.setattr(degrade, "scan_of", lambda hu, pixel_mm, noise_hu: None)
    monkeypatch.setattr(degrade, "low_dose", low_dose)
    chosen = {7: (2, 5, 8), 40: tuple(range(10))}
    monkeypatch.setattr(
        slice_rules,
        "salient_slices",
        lambda volume, count=7: tuple(ChosenSlice(i, 1 / len(chosen[count]), "") for i in chosen[count]),
    )
    header = Dataset()
    header.BodyPartExamined, header.ConvolutionKernel = "ABDOMEN", "B30s"
    rng = np.random.default_rng(0)
    # the ends of the scan are noisier: fixed positions see them, the middle ones do not
    noise = np.array([60, 5, 5, 5, 5, 5, 5, 5, 5, 60.0])
    voxels = 40 + rng.normal(0, 1, (10, 32, 32)) * noise[:, None, None]
    return SimpleNamespace(voxels=voxels, positions_mm=np.arange(10.0), spacing_mm=(1.0, 1.0, 1.0), header=header)


def test_both_rules_are_scored_at_every_dose_and_against_the_whole(volume):
    rows = compare("a", volume, _Noise())
    assert {row.rule for row in rows} == {"salient", "positional"}
    assert {row.dose for row in rows} == set(slice_rules._DOSES)
    assert next(row.slices for row in rows if row.rule == "salient") == (2, 5, 8)
    assert len({row.whole for row in rows}) == 1
    assert compare("a", volume, _Noise()) == rows
    said = {rule: (order, error) for _, rule, order, error in summary(rows)}
    assert said["salient"][0] == pytest.approx(1.0)
    assert said["salient"][1] > 0 > said["positional"][1]


def test_summary_tells_order_and_error_per_series_and_rule():
    rows = [SeriesScore("a", "salient", dose, score, 3.0, (1,)) for dose, score in ((1.0, 2.5), (0.5, 2.6), (0.1, 1.0))]
    assert summary(rows) == [("a", "salient", pytest.approx(0.5), pytest.approx(-0.5))]


def test_a_run_judges_the_series_that_it_held_out():
    names = ["a", "b", "c", "d"]
    folds = fold_of((f"dicom/{name}" for name in names), 4)
    config = RunConfig(model="tfkt_small", shares=(), steps=1, folds=4, held_out=2)
    assert slice_rules._held_out(config, names) == {name for name in names if folds[f"dicom/{name}"] == 2}
    assert slice_rules._held_out(config.model_copy(update={"held_out": None}), names) == set(names)
