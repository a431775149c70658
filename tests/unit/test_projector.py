"""The projector and the acquisition model against what theory says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dicom_qa_node.phantom import ct_acquisition
from dicom_qa_node.phantom.ct_acquisition import Scan
from dicom_qa_node.phantom.projector import (
    MU_WATER_PER_MM,
    Filter,
    ParallelBeam,
    attenuation_from_hu,
    hu_from_attenuation,
)

SIDE = 256
PIXEL_MM = 1.4
BEAM = ParallelBeam(SIDE, 360, PIXEL_MM)


def radius_mm(centre_mm: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    y, x = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) * PIXEL_MM
    return np.hypot(x - centre_mm[0], y - centre_mm[1])


def water_disc(diameter_mm: float, centre_mm: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    edge = (diameter_mm / 2 - radius_mm(centre_mm)) / PIXEL_MM
    return (1000.0 * np.clip(edge + 0.5, 0, 1) - 1000.0).astype(np.float32)


def test_projection_of_a_disc_is_its_chord() -> None:
    centre = (31.0, -17.0)
    sinogram = BEAM.forward(attenuation_from_hu(water_disc(180, centre)))
    angle = np.arange(BEAM.views) * np.pi / BEAM.views
    detector = (np.arange(BEAM.detectors) - (BEAM.detectors - 1) / 2) * PIXEL_MM
    off = detector[None, :] - (centre[0] * np.cos(angle) + centre[1] * np.sin(angle))[:, None]
    chord = 2 * np.sqrt(np.clip(90.0**2 - off**2, 0, None)) * MU_WATER_PER_MM
    inside = np.abs(off) < 84
    assert np.abs(sinogram - chord)[inside].max() < 0.01 * chord.max()
    assert np.abs(sinogram)[np.abs(off) > 96].max() < 0.01 * chord.max()


@pytest.mark.parametrize("kernel", list(Filter))
def test_reconstruction_returns_the_values_of_the_disc(kernel: Filter) -> None:
    disc = water_disc(180, (31.0, -17.0))
    hu = hu_from_attenuation(BEAM.reconstruct(BEAM.forward(attenuation_from_hu(disc)), kernel))
    r = radius_mm((31.0, -17.0))
    assert abs(hu[r < 80].mean()) < 1.0
    assert abs(hu[(r > 100) & (radius_mm() < 170)].mean() + 1000.0) < 1.0


def test_reconstruction_keeps_orientation() -> None:
    image = np.zeros((SIDE, SIDE), np.float32)
    image[40, 200] = 1.0
    found = BEAM.reconstruct(BEAM.forward(image))
    assert np.unravel_index(found.argmax(), found.shape) == (40, 200)


def test_odd_side_reconstructs_too() -> None:
    beam = ParallelBeam(65, 100, 1.0)
    image = np.zeros((65, 65), np.float32)
    image[20:50, 12:40] = 1.0
    found = beam.reconstruct(beam.forward(image), Filter.RAM_LAK)
    assert found[30:40, 22:30].mean() == pytest.approx(1.0, abs=0.02)


def test_batch_equals_single_slices() -> None:
    discs = np.stack([water_disc(100), water_disc(200)])
    mu = attenuation_from_hu(discs)
    both = BEAM.forward(mu)
    np.testing.assert_allclose(both[1], BEAM.forward(mu[1]), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(BEAM.reconstruct(both)[0], BEAM.reconstruct(both[0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("pixels", "views", "pixel_mm"), [(4, 10, 1.0), (64, 0, 1.0), (64, 10, 0.0)])
def test_impossible_geometry_is_refused(pixels: int, views: int, pixel_mm: float) -> None:
    with pytest.raises(ValueError, match="impossible geometry"):
        ParallelBeam(pixels, views, pixel_mm)


def test_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        BEAM.forward(np.zeros((10, 12)))


def test_noise_is_what_the_variance_map_predicts() -> None:
    disc = water_disc(240)
    scan = Scan(BEAM, photons=3e5)
    rng = np.random.default_rng(7)
    centre = radius_mm() < 25
    drawn = np.mean([ct_acquisition.exposure_noise(disc, scan, rng)[centre].std() for _ in range(6)])
    predicted = ct_acquisition.noise_map(disc, scan)[centre].mean()
    assert drawn == pytest.approx(predicted, rel=0.05)


def test_photons_reach_the_noise_target() -> None:
    disc = water_disc(300)
    scan = Scan(BEAM)
    scan = replace(scan, photons=ct_acquisition.photons_for_noise(disc, scan, 12.0))
    noise = ct_acquisition.exposure_noise(np.stack([disc] * 4), scan, np.random.default_rng(1))
    assert noise[:, (disc > -20) & (disc < 20)].std() == pytest.approx(12.0, rel=0.1)


def test_added_variance_completes_the_lower_dose() -> None:
    p = np.linspace(0, 6, 20)
    full = ct_acquisition.measured_variance(p, 1e6, 10)
    low = ct_acquisition.measured_variance(p, 1e5, 10)
    np.testing.assert_allclose(full + ct_acquisition.added_variance(p, 1e6, 10, 0.1), low, rtol=1e-5)


def test_detector_counts_follow_poisson() -> None:
    p = np.full((400, 400), 3.0)
    read = ct_acquisition.measure(p, 1e5, 10.0, np.random.default_rng(3))
    assert read.var() == pytest.approx(float(ct_acquisition.measured_variance(3.0, 1e5, 10.0)), rel=0.03)
    assert read.mean() == pytest.approx(3.0, abs=0.001)


def test_full_set_of_views_has_no_streaks() -> None:
    streaks = ct_acquisition.missing_view_streaks(water_disc(200), Scan(BEAM), BEAM.views)
    assert np.abs(streaks).max() == 0.0
