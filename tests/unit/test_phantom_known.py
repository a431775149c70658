"""The yardsticks measure what they say."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_qa_node import phantom
from dicom_qa_node.phantom import Filter


def middle(voxels: np.ndarray, half: int = 30) -> np.ndarray:
    rows = voxels.shape[1]
    span = slice(rows // 2 - half, rows // 2 + half)
    return voxels[:, span, span]


@pytest.mark.parametrize("noise_hu", [3.0, 12.0, 40.0])
@pytest.mark.parametrize("spectrum", [None, Filter.HANN, Filter.RAM_LAK])
def test_noise_is_exact(noise_hu: float, spectrum: Filter | None) -> None:
    known = phantom.known_noise_volume(noise_hu, spectrum=spectrum, slices=12)
    assert middle(known.voxels).std() == pytest.approx(noise_hu, rel=0.03)
    assert middle(known.voxels).mean() == pytest.approx(40.0, abs=0.5)
    assert known.voxels[:, :10].std() == pytest.approx(noise_hu, rel=0.1)


@pytest.mark.parametrize("sigma_mm", [0.6, 1.0, 2.0])
def test_edge_has_the_stated_mtf(sigma_mm: float) -> None:
    known = phantom.known_noise_volume(0.0, sigma_mm=sigma_mm, pixel_mm=0.5, rows=300, diameter_mm=100, slices=1)
    axis = (np.arange(300) - 149.5) * 0.5
    radius = np.hypot(*np.meshgrid(axis, axis))
    fine = np.arange(35, 65, 0.05)
    order = np.argsort(radius, axis=None)
    edge = np.interp(fine, radius.ravel()[order], known.voxels[0].ravel()[order])
    spread = -np.gradient(edge)
    mtf = np.abs(np.fft.rfft(spread)) / spread.sum()
    f50 = np.interp(-0.5, -mtf[:200], np.fft.rfftfreq(spread.size, 0.05)[:200])
    assert f50 == pytest.approx(known.f50_per_mm, rel=0.03)
    assert known.f50_per_mm == pytest.approx(0.187 / sigma_mm, rel=0.005)


def test_dose_volume_follows_the_dose() -> None:
    found = [phantom.known_dose_volume(dose) for dose in (1.0, 0.25)]
    assert found[0].noise_hu == pytest.approx(12.0, rel=0.02)
    for known in found:
        assert middle(known.voxels, 12).std() == pytest.approx(known.noise_hu, rel=0.1)
    assert found[1].noise_hu / found[0].noise_hu == pytest.approx(2.0, rel=0.03)


@pytest.mark.parametrize("cov", [0.05, 0.10, 0.20])
def test_liver_has_its_cov(cov: float) -> None:
    known = phantom.known_pet_liver(cov)
    liver = known.voxels[known.liver]
    assert liver.mean() == pytest.approx(known.suv, rel=0.02)
    assert liver.std() / liver.mean() == pytest.approx(cov, rel=0.05)


def test_misregistered_pair_differs_by_the_shift() -> None:
    ct, still = phantom.known_misregistration((0.0, 0.0, 0.0), slices=8)
    same_ct, moved = phantom.known_misregistration((10.0, 0.0, 0.0), slices=8)
    np.testing.assert_array_equal(ct.voxels, same_ct.voxels)
    # the end slices differ by the edge of the blur, and each PET has its own noise
    away = np.abs(moved.voxels[3:-1] - still.voxels[1:-3]).mean()
    assert away < 0.6 * np.abs(moved.voxels[3:-1] - still.voxels[3:-1]).mean()
