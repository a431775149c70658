"""Each degradation against its formula: the severity means what it says."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from dicom_qa_node.phantom import ct_acquisition
from dicom_qa_node.phantom.ct_acquisition import Scan
from dicom_qa_node.phantom.projector import ParallelBeam
from dicom_qa_node.phantom.volumes import FWHM_PER_SIGMA, correlated_noise
from training import degrade

SIDE = 256
PIXEL_MM = 1.4
SCAN = Scan(ParallelBeam(SIDE, 360, PIXEL_MM), photons=2e6)
ISOTROPIC = (2.0, 2.0, 2.0)

Array = npt.NDArray[np.float32]


def body() -> Array:
    """An ellipse of soft tissue with bone and air in it."""
    y, x = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) * PIXEL_MM
    image = np.full((SIDE, SIDE), -1000.0, np.float32)
    image[(x / 130) ** 2 + (y / 95) ** 2 < 1] = 40.0
    image[(x / 15) ** 2 + ((y - 55) / 15) ** 2 < 1] = 700.0
    image[(x - 60) ** 2 + (y + 30) ** 2 < 12**2] = -900.0
    return image


def noise_sd(image: Array) -> float:
    return float(image[..., 118:138, 118:138].std())


@pytest.mark.parametrize("dose", [0.5, 0.25, 0.1, 0.05])
def test_noise_goes_with_one_over_root_dose(dose: float) -> None:
    rng = np.random.default_rng(11)
    clean = np.stack([body()] * 6)
    routine = clean + ct_acquisition.exposure_noise(clean, SCAN, rng)
    low = degrade.low_dose(routine, SCAN, dose, rng)
    assert noise_sd(low) / noise_sd(routine) == pytest.approx(1 / np.sqrt(dose), rel=0.1)


def test_added_noise_looks_like_a_scan_at_that_dose() -> None:
    rng = np.random.default_rng(5)
    clean = np.stack([body()] * 6)
    direct = ct_acquisition.exposure_noise(clean, Scan(SCAN.beam, photons=2e5), rng)
    routine = clean + ct_acquisition.exposure_noise(clean, SCAN, rng)
    added = degrade.low_dose(routine, SCAN, 0.1, rng) - clean

    def spectrum(noise: Array) -> Array:
        patch = noise[:, 96:160, 96:160]
        power = np.abs(np.fft.fft2(patch - patch.mean((1, 2), keepdims=True))) ** 2
        return power.mean(0)

    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    for low, high in ((0.05, 0.15), (0.15, 0.25), (0.25, 0.35)):
        band = (frequency > low) & (frequency <= high)
        assert spectrum(added)[band].mean() == pytest.approx(spectrum(direct)[band].mean(), rel=0.15)


def test_starved_scan_is_worse_than_the_square_root_law() -> None:
    rng = np.random.default_rng(2)
    clean = np.stack([body()] * 3)
    starving = Scan(SCAN.beam, photons=2e4)
    low = degrade.low_dose(clean, starving, 0.05, rng)
    linear = ct_acquisition.noise_map(clean[0], Scan(SCAN.beam, photons=2e4, electronic=0))[128, 128]
    assert noise_sd(low) > linear * np.sqrt(1 / 0.05 - 1)


def test_noise_target_sets_the_scan() -> None:
    image = body()
    scan = degrade.scan_of(image, PIXEL_MM, noise_hu=15.0)
    noise = ct_acquisition.exposure_noise(np.stack([image] * 4), scan, np.random.default_rng(0))
    assert noise[:, (image >= 0) & (image <= 100)].std() == pytest.approx(15.0, rel=0.1)


def test_streak_energy_grows_as_views_go() -> None:
    image = body()
    inside = image > -200
    energy = [
        float(np.mean((degrade.sparse_views(image, SCAN, views) - image)[inside] ** 2))
        for views in (360, 180, 120, 64, 32)
    ]
    assert energy[0] == 0.0
    assert all(fewer > more for more, fewer in pairwise(energy))
    assert energy[-1] > 10 * energy[1]


def test_near_an_object_is_free_of_streaks() -> None:
    image = np.full((SIDE, SIDE), -1000.0, np.float32)
    image[126:130, 126:130] = 0.0
    views = 90
    streaks = degrade.sparse_views(image, SCAN, views) - image
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    radius = np.hypot(x, y)
    free = views / np.pi
    near = streaks[(radius > 6) & (radius < 0.8 * free)]
    far = streaks[(radius > 2.5 * free) & (radius < 110)]
    assert near.std() < 0.2 * far.std()


@pytest.mark.parametrize("sigma_mm", [0.6, 1.0, 1.6])
def test_blur_has_the_gaussian_mtf(sigma_mm: float) -> None:
    pixel = 0.25
    line = np.zeros((1, 1025), np.float32)
    line[0, 512] = 1.0
    spread = degrade.kernel_blur(np.repeat(line, 3, axis=0), sigma_mm, pixel)[1]
    mtf = np.abs(np.fft.rfft(spread))
    frequency = np.fft.rfftfreq(spread.size, pixel)
    f50 = np.interp(-0.5, -mtf, frequency)
    assert f50 == pytest.approx(0.187 / sigma_mm, rel=0.02)
    assert degrade.sigma_for_f50(f50) == pytest.approx(sigma_mm, rel=0.02)


@pytest.mark.parametrize("thickness_mm", [1.0, 2.0, 3.0, 4.5, 8.0])
def test_thick_slices_average_independent_noise(thickness_mm: float) -> None:
    noise = np.random.default_rng(4).standard_normal((60, 64, 64)).astype(np.float32)
    thick = degrade.thick_slices(noise + 50, (1.0, 1.0, 1.0), thickness_mm)
    middle = thick[10:-10]
    whole, rest = divmod(thickness_mm - 1, 2)
    weights = np.array([1.0] * int(1 + 2 * whole) + [rest / 2] * 2) / thickness_mm
    assert middle.std() == pytest.approx(np.sqrt(np.sum(weights**2)), rel=0.03)
    assert middle.mean() == pytest.approx(50.0, abs=0.02)


def test_thinner_slices_are_refused() -> None:
    with pytest.raises(ValueError, match="thin"):
        degrade.thick_slices(np.zeros((4, 8, 8)), (3.0, 1.0, 1.0), 1.0)


@pytest.mark.parametrize("drf", [2, 4, 10, 20])
def test_liver_cov_goes_with_root_of_the_reduction(drf: int) -> None:
    rng = np.random.default_rng(8)
    cov = 0.06
    liver = 2.0 * (1 + cov * correlated_noise((40, 48, 48), 5.0, ISOTROPIC, rng))
    fewer = degrade.fewer_counts(liver, 1 / drf, ISOTROPIC, rng, reference_cov=cov)
    assert fewer.std() / fewer.mean() == pytest.approx(cov * np.sqrt(drf), rel=0.05)
    assert fewer.mean() == pytest.approx(2.0, rel=0.02)


def test_correlated_noise_has_unit_sd_and_its_width() -> None:
    noise = correlated_noise((48, 64, 64), 6.0, ISOTROPIC, np.random.default_rng(1))
    assert noise.std() == pytest.approx(1.0, rel=0.05)
    lag = np.mean(noise[:, :, :-1] * noise[:, :, 1:]) / noise.var()
    sigma = 6.0 / FWHM_PER_SIGMA / 2.0
    assert lag == pytest.approx(np.exp(-1 / (4 * sigma**2)), abs=0.03)


def test_thinning_keeps_poisson_statistics() -> None:
    rng = np.random.default_rng(9)
    kept = degrade.thin_counts(rng.poisson(200, 200_000), 0.1, rng)
    assert kept.mean() == pytest.approx(20, rel=0.01)
    assert kept.var() == pytest.approx(20, rel=0.02)


def test_misregistration_moves_by_millimetres() -> None:
    volume = np.zeros((30, 20, 20), np.float32)
    volume[12:16, 8:12, 8:12] = 1.0
    moved = degrade.misregister(volume, (6.0, -4.0, 2.0), (3.0, 4.0, 4.0))
    before = np.array([np.average(np.arange(n), weights=volume.sum(o)) for n, o in _axes(volume)])
    after = np.array([np.average(np.arange(n), weights=moved.sum(o)) for n, o in _axes(volume)])
    np.testing.assert_allclose((after - before) * (3.0, 4.0, 4.0), (6.0, -4.0, 2.0), atol=1e-3)


def _axes(volume: Array) -> list[tuple[int, tuple[int, ...]]]:
    return [(volume.shape[a], tuple(b for b in range(3) if b != a)) for a in range(3)]


def test_breathing_moves_the_dome_and_leaves_the_rest() -> None:
    ramp = np.repeat(np.arange(100, dtype=np.float32), 16).reshape(100, 4, 4)
    moved = degrade.misregister_diaphragm(ramp, 10.0, 50, 25.0, (2.0, 1.0, 1.0))
    assert moved[50, 0, 0] == pytest.approx(45.0, abs=1e-3)
    assert moved[95, 0, 0] == pytest.approx(95.0, abs=0.1)
    with pytest.raises(ValueError, match="fold"):
        degrade.misregister_diaphragm(ramp, 50.0, 50, 25.0, (2.0, 1.0, 1.0))


def test_jpeg_loses_more_at_lower_quality() -> None:
    picture = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    loss = [np.mean((degrade.jpeg(picture, quality).astype(float) - picture) ** 2) for quality in (100, 70, 40, 10)]
    assert loss == sorted(loss)
    assert loss[0] < loss[1]


def test_display_noise_and_impulses_have_their_rates() -> None:
    rng = np.random.default_rng(6)
    grey = np.full((400, 400, 3), 128, np.uint8)
    assert degrade.display_noise(grey, 5.0, rng).std() == pytest.approx(5.0, rel=0.02)
    hit = degrade.display_impulses(grey, 0.014, rng)
    assert np.mean(hit == 255) == pytest.approx(0.014 * 128 / 255, rel=0.1)
    assert np.all(hit >= grey)


def test_smooth_pet_lowers_cov() -> None:
    noise = 2 + 0.2 * np.random.default_rng(3).standard_normal((20, 30, 30)).astype(np.float32)
    spread = [degrade.smooth_pet(noise, fwhm, ISOTROPIC).std() for fwhm in (0.0, 2.0, 5.0, 8.0)]
    assert spread == sorted(spread, reverse=True)


Draw = Callable[[np.random.Generator], npt.NDArray[np.generic]]


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: degrade.low_dose(body(), SCAN, 0.25, rng),
        lambda rng: degrade.fewer_counts(np.full((4, 16, 16), 2.0), 0.25, ISOTROPIC, rng),
        lambda rng: degrade.display_noise(np.full((8, 8, 3), 90, np.uint8), 5, rng),
    ],
)
def test_a_seed_reproduces_the_draw(draw: Draw) -> None:
    np.testing.assert_array_equal(draw(np.random.default_rng(1)), draw(np.random.default_rng(1)))
    assert np.any(draw(np.random.default_rng(1)) != draw(np.random.default_rng(2)))


@pytest.mark.parametrize(
    "call",
    [
        lambda: degrade.low_dose(body(), SCAN, 0.0, np.random.default_rng(0)),
        lambda: degrade.sparse_views(body(), SCAN, 0),
        lambda: degrade.kernel_blur(body(), -1.0, 1.0),
        lambda: degrade.jpeg(np.zeros((8, 8, 3), np.uint8), 0),
        lambda: degrade.fewer_counts(body(), 2.0, ISOTROPIC, np.random.default_rng(0)),
    ],
)
def test_impossible_severity_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        call()
