"""A site's own mapping: fitted on signed reviews, judged on studies left out, refused without a gain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dicom_qa_node.domain.errors import Misconfigured, Permanent
from dicom_qa_node.models.site_calibration import (
    fit_site_calibration,
    read_site_calibration,
    site_calibration_to_json,
)

MODEL = ("ct_panel", "1.0.0")


def _reviews(count: int, slope: float, intercept: float, seed: int = 0) -> tuple[list[float], list[float], list[str]]:
    rng = np.random.default_rng(seed)
    scores = rng.uniform(1.0, 3.8, count)
    reviewed = np.clip(intercept + slope * scores + rng.normal(0, 0.15, count), 0, 4)
    return scores.tolist(), reviewed.tolist(), [f"study {index // 2}" for index in range(count)]


def test_a_stricter_site_is_learned_and_the_interval_with_it(tmp_path: Path) -> None:
    found, (before, after) = fit_site_calibration(*_reviews(80, 0.8, -0.1), MODEL, 3)
    assert before.rmse > 0.5
    assert after.rmse < 0.2
    assert found.apply(3.0) == pytest.approx(2.3, abs=0.1)
    assert 0.15 < found.half_width < 0.4
    assert found.undo(found.apply(2.4)) == pytest.approx(2.4)
    assert found.tuned_version == "1.0.0+site.3"
    (tmp_path / "site.json").write_text(site_calibration_to_json(found))
    assert read_site_calibration(tmp_path / "site.json") == found


def test_reviews_that_agree_or_are_noise_leave_the_model_as_it_is() -> None:
    with pytest.raises(Permanent, match="no improvement"):
        fit_site_calibration(*_reviews(80, 1.0, 0.0), MODEL)


def test_few_reviews_and_few_studies_are_refused() -> None:
    with pytest.raises(Permanent, match="50 are needed"):
        fit_site_calibration(*_reviews(49, 0.8, 0.0), MODEL)
    scores, reviewed, _ = _reviews(60, 0.8, 0.0)
    with pytest.raises(Permanent, match="studies"):
        fit_site_calibration(scores, reviewed, ["one"] * 60, MODEL)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "site.json").write_text("{}")
    with pytest.raises(Misconfigured, match="cannot be read"):
        read_site_calibration(tmp_path / "site.json")
    with pytest.raises(Misconfigured, match="cannot be read"):
        read_site_calibration(tmp_path / "none.json")
