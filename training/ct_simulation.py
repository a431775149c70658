"""Simulate severities of one CT slice in its projections, every version from one forward projection.

The noise of a dose fraction is reconstructed with the filter whose texture is nearest to the slice's own (or with
another one, so that a texture is not a sign of simulation), scaled to the slice's own measured noise. Routine slices
are also given next to no dose reduction: a network must not recognise the simulator instead of the noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_qa_node.phantom.ct_acquisition import added_variance
from dicom_qa_node.phantom.projector import MU_WATER_PER_MM, Filter, ParallelBeam, attenuation_from_hu
from training.data.prepare_severity import noise_level, other_kernel

__all__ = ["Version", "versions"]

Image = npt.NDArray[np.float32]

_VIEWS = 720
_HU = 1000.0 / MU_WATER_PER_MM
_ELECTRONIC = 10.0
_FILTERS = (
    (Filter.RAM_LAK, 1.0),
    (Filter.SHEPP_LOGAN, 1.0),
    (Filter.COSINE, 1.0),
    (Filter.HANN, 1.0),
    (Filter.HANN, 0.8),
    (Filter.HANN, 0.65),
    (Filter.HANN, 0.5),
)
_MATCHED = (0.5, 0.25, 0.15, 0.1, 0.05)
_OTHER = (0.8, 0.3, 0.1)
_STARVED = (0.25, 0.1, 0.05)
_FEW_VIEWS = (360, 120, 64)
_BOTH = ((0.25, 120), (0.1, 64))
_BLURS = (0.7, 1.2, 2.0)


@dataclass(frozen=True)
class Version:
    """One version of a slice: ``hu`` and what was done; ``texture`` names the filter of the added noise.

    ``dose`` is a fraction of the slice's own, ``views`` of 720, ``blur_px`` the SD of the added point spread,
    ``sharpen`` the share of the high pass that was added.
    """

    name: str
    hu: Image
    dose: float = 1.0
    views: int = _VIEWS
    blur_px: float = 0.0
    sharpen: float = 0.0
    texture: str = ""


def versions(hu: Image, pixel_mm: float, rng: np.random.Generator, vary: bool = False) -> Iterator[Version]:
    """Yield the slice and its versions, the slice itself first.

    Parameters
    ----------
    hu
        Shape (n, n), in HU.
    pixel_mm
        Side of a pixel.
    vary
        Draw the textures and the doses instead of taking the nearest texture and fixed doses.
    """
    hu = np.maximum(np.asarray(hu, np.float32), -1024.0)
    yield Version("routine", hu)
    own = noise_level(hu)
    beam = ParallelBeam(hu.shape[0], _VIEWS, pixel_mm)
    mu = attenuation_from_hu(hu)
    integrals = beam.forward(mu)
    near = _FILTERS[int(rng.integers(len(_FILTERS)))] if vary else nearest_filter(hu)
    jitter = rng.uniform(0.8, 1.25, 5) if vary else np.ones(5)
    others = [item for item in _FILTERS if item != near]
    other = others[int(rng.integers(len(others)))]
    tissue = (ndimage.uniform_filter(hu, 9) > -50) & (ndimage.uniform_filter(hu, 9) < 150)

    def noise_of(kernel: tuple[Filter, float]) -> Image:
        drawn = np.exp(integrals / 2) * rng.standard_normal(integrals.shape, np.float32)
        return _scaled(beam.reconstruct(drawn, *kernel), tissue)

    matched, unlike = noise_of(near), noise_of(other)

    def lowered(noise: Image, dose: float) -> Image:
        return np.asarray(hu + own * np.sqrt(1 / dose - 1) * noise, np.float32)

    names = {"matched": _name(near), "other": _name(other)}
    for dose in (float(rng.uniform(0.7, 0.85)), 1 / 1.04**2):
        yield Version("near", lowered(matched, dose), dose=dose, texture=names["matched"])
    yield Version("near_other", lowered(unlike, 0.8), dose=0.8, texture=names["other"])
    for dose in (np.array(_MATCHED) * jitter).tolist():
        yield Version("dose", lowered(matched, dose), dose=dose, texture=names["matched"])
    for dose in _OTHER[1:]:
        yield Version("dose_other", lowered(unlike, dose), dose=dose, texture=names["other"])
    photons = _photons(integrals, beam, tissue, own, rng)
    for dose in _STARVED:
        ceiling = np.log(photons * dose)
        sd = np.sqrt(added_variance(integrals, photons, _ELECTRONIC, dose))
        reading = integrals + sd * rng.standard_normal(integrals.shape, np.float32)
        change = np.minimum(reading, ceiling) - np.minimum(integrals, ceiling)
        yield Version("starved", hu + beam.reconstruct(change) * _HU, dose=dose, texture=_name((Filter.HANN, 1.0)))
    full = beam.reconstruct(integrals)
    streaks = {}
    for views in _FEW_VIEWS:
        few = ParallelBeam(hu.shape[0], views, pixel_mm)
        streaks[views] = (few.reconstruct(few.forward(mu)) - full) * _HU
        yield Version("views", hu + streaks[views], views=views)
    for dose, views in _BOTH:
        noisy = lowered(matched, dose) + streaks[views]
        yield Version("both", noisy, dose=dose, views=views, texture=names["matched"])
    for blur in _BLURS:
        yield Version("blur", _blurred(hu, blur), blur_px=blur)
    yield Version("smooth_low", _blurred(lowered(matched, 0.1), 0.9), dose=0.1, blur_px=0.9, texture=names["matched"])
    amount = float(rng.uniform(0.3, 0.6))
    yield Version("sharp", other_kernel(hu, -amount), sharpen=amount)
    yield Version(
        "sharp_low", other_kernel(lowered(unlike, 0.1), -amount), dose=0.1, sharpen=amount, texture=names["other"]
    )


def nearest_filter(hu: Image) -> tuple[Filter, float]:
    """Return the reconstruction filter whose noise has the texture nearest to that of calm soft tissue."""
    mean = ndimage.uniform_filter(hu, 9)
    tissue = (mean > -50) & (mean < 200)
    if tissue.sum() < 500:
        return Filter.HANN, 1.0
    own = octave_ratio(hu, tissue)
    return min(_FILTERS, key=lambda kernel: abs(_texture_ratio(kernel) - own))


def octave_ratio(image: Image, where: npt.NDArray[np.bool_]) -> float:
    """Return log2 of the noise of the finest octave over that of the next, in the calmest quarter of a region."""
    fine = image - ndimage.uniform_filter(image, 3)
    half = ndimage.uniform_filter(image, 2)
    coarse = half - ndimage.uniform_filter(half, 6)
    energies = [ndimage.uniform_filter(np.square(band), 11)[where] for band in (fine, coarse)]
    calm = energies[1] <= np.quantile(energies[1], 0.25)
    return float(0.5 * np.log2((np.median(energies[0][calm]) + 1e-6) / (np.median(energies[1][calm]) + 1e-6)))


@cache
def _texture_ratio(kernel: tuple[Filter, float]) -> float:
    """Return `octave_ratio` of pure noise after filtered backprojection."""
    side = 256
    beam = ParallelBeam(side, 360, 0.7)
    drawn = np.random.default_rng(1).standard_normal((360, beam.detectors)).astype(np.float32)
    noise = beam.reconstruct(drawn, *kernel)
    inside = np.zeros((side, side), bool)
    inside[64:192, 64:192] = True
    return octave_ratio(noise / noise[inside].std(), inside)


def _scaled(noise: Image, tissue: npt.NDArray[np.bool_]) -> Image:
    """Scale noise to unit SD in soft tissue, as `noise_level` would measure it."""
    sd = np.sqrt(ndimage.uniform_filter(np.square(noise), 9))
    return np.asarray(noise / float(np.median(sd[tissue] if tissue.any() else sd)), np.float32)


def _photons(
    integrals: Image, beam: ParallelBeam, tissue: npt.NDArray[np.bool_], own: float, rng: np.random.Generator
) -> float:
    """Return I0 at which the added noise of half the dose has the slice's own level."""
    noise = beam.reconstruct(np.exp(integrals / 2) * rng.standard_normal(integrals.shape, np.float32)) * _HU
    sd = np.sqrt(ndimage.uniform_filter(np.square(noise), 9))
    return float((np.median(sd[tissue] if tissue.any() else sd) / own) ** 2)


def _blurred(hu: Image, sigma: float) -> Image:
    return np.asarray(ndimage.gaussian_filter(hu, sigma, mode="nearest"), np.float32)


def _name(kernel: tuple[Filter, float]) -> str:
    return f"{kernel[0].value}:{kernel[1]:g}"
