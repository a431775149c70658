"""Heat maps: the places that cost a slice its score are the bright ones, and they are made while no series waits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dicom_qa_node.config import Grades
from dicom_qa_node.domain.results import ModelRef, SeriesKind, SeriesResult
from dicom_qa_node.phantom import ct_series
from dicom_qa_node.phantom import write as write_phantom
from dicom_qa_node.score.display_images import ct_display_image
from dicom_qa_node.score.grade_sets import grade_of
from dicom_qa_node.score.heat_maps import BackgroundHeatMaps, heat_map, heat_map_steps
from dicom_qa_node.score.pipeline import ScoredSeries
from dicom_qa_node.score.volume_builder import build_volumes
from dicom_qa_node.spool.rendered_images import heat_name
from tests.stub_model import TinyScorer


@dataclass(frozen=True)
class _Said:
    score: np.ndarray
    interval_half_width: float = 0.5


class RoughnessScorer(TinyScorer):
    """Scores 4 minus the mean step between neighbouring pixels."""

    def score(self, images, kind):
        steps = np.abs(np.diff(np.asarray(images, np.float32)[..., 0], axis=2)).mean(axis=(1, 2))
        return _Said(4 - steps / 8)


def _result(score: float | None) -> SeriesResult:
    grade = None if score is None else grade_of(score, Grades())
    return SeriesResult("1.2.3", "CT", SeriesKind.CT, score, None, grade, (), (), (), ModelRef("m", "1", ""), 2)


def _picture(side: int = 300) -> np.ndarray:
    return np.full((side, side, 3), 120, np.uint8)


@pytest.mark.parametrize(("rows", "columns"), [(300, 300), (512, 512), (180, 400)])
def test_a_map_has_the_picture_s_size_and_a_smooth_picture_a_dark_one(rows, columns):
    heat = heat_map(np.full((rows, columns, 3), 90, np.uint8), SeriesKind.CT, RoughnessScorer())
    assert heat.shape == (rows, columns)
    assert heat.dtype == np.uint8
    assert heat.max() < 60


def test_a_rough_place_is_the_bright_one():
    picture = _picture()
    rng = np.random.default_rng(0)
    picture[40:100, 180:240] = rng.integers(60, 190, (60, 60, 1))
    heat = heat_map(picture, SeriesKind.CT, RoughnessScorer()).astype(float)
    row, column = ndimage.center_of_mass(heat)
    assert (row, column) == (pytest.approx(70, abs=32), pytest.approx(210, abs=32))


def test_a_map_is_made_in_steps():
    steps = list(heat_map_steps(_picture(), SeriesKind.CT, RoughnessScorer()))
    assert steps[-1] is not None
    assert len(steps) > 3
    assert all(step is None for step in steps[:-1])


def test_maps_are_made_only_where_a_score_is_lost(tmp_path):
    def series(score: float | None) -> ScoredSeries:
        return ScoredSeries(_result(score), np.stack([_picture()] * 2))

    work = BackgroundHeatMaps(RoughnessScorer())
    work.add(series(3.6), tmp_path / "good")
    work.add(series(None), tmp_path / "none")
    assert not work.step()
    work.add(series(1.9), tmp_path / "poor")
    while work.step():
        pass
    assert sorted(path.name for path in (tmp_path / "poor").iterdir()) == [heat_name(1), heat_name(2)]
    assert not (tmp_path / "good").exists()
    with Image.open(tmp_path / "poor" / heat_name(1)) as image:
        assert image.mode == "L"


def test_a_map_that_cannot_be_written_costs_itself_only(tmp_path, caplog):
    (tmp_path / "taken").touch()
    work = BackgroundHeatMaps(RoughnessScorer())
    work.add(ScoredSeries(_result(1.0), np.stack([_picture()])), tmp_path / "taken")
    while work.step():
        pass
    assert [record.getMessage() for record in caplog.records] == ["heat_map_failed"]


@pytest.mark.parametrize(("defect", "least"), [("noise", 0.58), ("streaks", 0.7)])
def test_the_shipped_network_loses_score_on_the_degraded_side(tmp_path, defect, least):
    """The same slice degraded left and right: most of what smoothing wins back lies on the degraded side."""
    infer = pytest.importorskip("dicom_qa_node.score.inference")
    scorer = infer.Scorer.open("ms_iqa_small", "cpu")
    (volume,) = build_volumes(write_phantom(ct_series(3, 3, 512, spacing_mm=15.0, fov_mm=500), tmp_path))
    shares = []
    for side in (0, 1):
        picture = ct_display_image(_degraded(volume.voxels[1], defect, side))
        heat = heat_map(picture, SeriesKind.CT, scorer).astype(float)
        halves = heat[:, :256].sum(), heat[:, 256:].sum()
        shares.append(halves[side] / sum(halves))
    assert min(shares) > 0.5
    assert np.mean(shares) > least


def _degraded(hu, defect: str, side: int):
    rows, columns = np.mgrid[: hu.shape[0], : hu.shape[1]]
    if defect == "noise":
        noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=hu.shape), 0.8)
        change = noise * 60 / noise.std()
    else:
        centre = hu.shape[1] * (0.3, 0.7)[side]
        change = 80 * np.sign(np.sin(40 * np.arctan2(rows - hu.shape[0] / 2, columns - centre)))
    return hu + change * (columns // (hu.shape[1] // 2) == side)
