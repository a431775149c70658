"""Simulated CT acquisition: projections, noise, dose, and named levels of image quality."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dicom_qa_node.phantom.projector import MU_WATER_PER_MM, Filter, FloatArray, ParallelBeam, attenuation_from_hu

_HU_PER_ATTENUATION = 1000.0 / MU_WATER_PER_MM


@dataclass(frozen=True)
class Scan:
    """One way to acquire and reconstruct a slice.

    ``photons`` is I0, the photons per detector reading without an object; it is not portable between
    geometries, so set it with :func:`photons_for_noise`. ``electronic`` is the SD of the detector's own
    noise, in photons.
    """

    beam: ParallelBeam
    photons: float = 1e6
    electronic: float = 10.0
    kernel: Filter = Filter.HANN
    cutoff: float = 1.0

    def __post_init__(self) -> None:
        if not self.photons > 0 or self.electronic < 0:
            raise ValueError(f"impossible beam: {self.photons} photons, electronic noise {self.electronic}")


def measure(
    line_integrals: npt.NDArray[Any], photons: float, electronic: float, rng: np.random.Generator
) -> FloatArray:
    """Line integrals as a detector counts them.

    ``c = Poisson(I0 e^{-p}) + N(0, sigma_e^2)`` and ``p' = ln(I0 / max(c, 1))`` (Zeng et al. 2015, IEEE TNS
    62:2226).
    """
    counts = rng.poisson(photons * np.exp(-np.asarray(line_integrals, np.float64))).astype(np.float32)
    counts += electronic * rng.standard_normal(counts.shape, np.float32)
    return np.asarray(np.log(photons / np.maximum(counts, 1.0)), np.float32)


def measured_variance(line_integrals: npt.NDArray[Any], photons: float, electronic: float) -> FloatArray:
    """Variance of :func:`measure`: ``e^p / I0 + sigma_e^2 e^{2p} / I0^2``, before photon starvation."""
    inverse = np.exp(np.asarray(line_integrals, np.float64)) / photons
    return np.asarray(inverse + (electronic * inverse) ** 2, np.float32)


def added_variance(
    line_integrals: npt.NDArray[Any], photons: float, electronic: float, dose_fraction: float
) -> FloatArray:
    """Variance to add to data taken with ``photons`` so that they look taken with ``dose_fraction`` of them.

    ``e^p / I0 (1-d)/d + sigma_e^2 e^{2p} / I0^2 (1-d^2)/d^2`` (Massoumzadeh et al. 2009, Med Phys 36:174;
    Yu et al. 2012, J Comput Assist Tomogr 36:477).
    """
    d = _fraction(dose_fraction)
    inverse = np.exp(np.asarray(line_integrals, np.float64)) / photons
    added = inverse * (1.0 - d) / d + (electronic * inverse) ** 2 * (1.0 - d**2) / d**2
    return np.asarray(added, np.float32)


def exposure_noise(hu: npt.NDArray[Any], scan: Scan, rng: np.random.Generator) -> FloatArray:
    """Noise in HU, same shape as ``hu``, that ``scan`` puts on a noise-free object."""

    def noise(integrals: FloatArray) -> FloatArray:
        return measure(integrals, scan.photons, scan.electronic, rng) - integrals

    return _through_projections(hu, scan, noise)


def dose_reduction_noise(
    hu: npt.NDArray[Any], scan: Scan, dose_fraction: float, rng: np.random.Generator
) -> FloatArray:
    """Noise in HU that turns an image acquired by ``scan`` into one at ``dose_fraction`` of its dose.

    Readings below one photon are read as one, as in :func:`measure`: that gives the starvation streaks.
    """
    ceiling = np.log(scan.photons * _fraction(dose_fraction))

    def noise(integrals: FloatArray) -> FloatArray:
        sd = np.sqrt(added_variance(integrals, scan.photons, scan.electronic, dose_fraction))
        reading = integrals + sd * rng.standard_normal(integrals.shape, np.float32)
        return np.asarray(np.minimum(reading, ceiling) - np.minimum(integrals, ceiling), np.float32)

    return _through_projections(hu, scan, noise)


def missing_view_streaks(hu: npt.NDArray[Any], scan: Scan, views: int) -> FloatArray:
    """Streaks in HU that appear when ``scan`` keeps only ``views`` of its views, evenly spread.

    The difference of two reconstructions of the same slice. Free of streaks is a radius of about
    ``views * pixel / pi`` (Kak & Slaney 1988, section 5.1).
    """
    if not 1 <= views <= scan.beam.views:
        raise ValueError(f"views must be between 1 and {scan.beam.views}, not {views}")
    few = replace(scan.beam, views=views)
    batch, single = _slices(hu, scan.beam)
    streaks = np.empty(batch.shape, np.float32)
    for index, image in enumerate(batch):
        mu = attenuation_from_hu(image)
        full = scan.beam.reconstruct(scan.beam.forward(mu), scan.kernel, scan.cutoff)
        sparse = few.reconstruct(few.forward(mu), scan.kernel, scan.cutoff)
        streaks[index] = (sparse - full) * _HU_PER_ATTENUATION
    return streaks[0] if single else streaks


def noise_map(hu: npt.NDArray[Any], scan: Scan) -> FloatArray:
    """Expected noise SD in HU at each pixel, without drawing any noise.

    The variance of filtered backprojection is the backprojection of the readings' variance times the energy
    of the filter (Kak & Slaney 1988, section 5.2).
    """
    gain = scan.beam.filter_energy(scan.kernel, scan.cutoff) * (np.pi / scan.beam.views) ** 2
    batch, single = _slices(hu, scan.beam)
    maps = np.empty(batch.shape, np.float32)
    for index, image in enumerate(batch):
        integrals = scan.beam.forward(attenuation_from_hu(image))
        variance = scan.beam.backproject(measured_variance(integrals, scan.photons, scan.electronic))
        maps[index] = np.sqrt(np.maximum(variance * gain, 0.0)) * _HU_PER_ATTENUATION
    return maps[0] if single else maps


def photons_for_noise(
    hu: npt.NDArray[Any], scan: Scan, target_hu: float, region: npt.NDArray[np.bool_] | None = None
) -> float:
    """I0 at which the mean noise SD in ``region`` of one slice is ``target_hu``.

    ``region`` defaults to soft tissue (0 to 100 HU), which is what the global noise level looks at.
    """
    image = np.asarray(hu, np.float32)
    inside = (image >= 0.0) & (image <= 100.0) if region is None else region
    if not target_hu > 0 or not inside.any():
        raise ValueError("a positive noise target and a region that is not empty are needed")
    photons = scan.photons
    for _ in range(6):  # SD is nearly 1/sqrt(I0): the ratio converges in a few rounds
        sd = float(np.mean(noise_map(image, replace(scan, photons=photons))[inside]))
        photons *= (sd / target_hu) ** 2
        if abs(sd / target_hu - 1.0) < 1e-3:
            break
    return photons


def _through_projections(hu: npt.NDArray[Any], scan: Scan, noise: Any) -> FloatArray:
    batch, single = _slices(hu, scan.beam)
    result = np.empty(batch.shape, np.float32)
    for index, image in enumerate(batch):
        increment = noise(scan.beam.forward(attenuation_from_hu(image)))
        result[index] = scan.beam.reconstruct(increment, scan.kernel, scan.cutoff) * _HU_PER_ATTENUATION
    return result[0] if single else result


def _slices(hu: npt.NDArray[Any], beam: ParallelBeam) -> tuple[FloatArray, bool]:
    values = np.asarray(hu, np.float32)
    side = beam.pixels
    if values.ndim not in (2, 3) or values.shape[-2:] != (side, side):
        raise ValueError(f"expected slices of {side}x{side} pixels, got shape {values.shape}")
    return (values[None], True) if values.ndim == 2 else (values, False)


def _fraction(dose_fraction: float) -> float:
    if not 0.0 < dose_fraction <= 1.0:
        raise ValueError(f"a dose fraction lies in (0, 1], not {dose_fraction}")
    return dose_fraction


FULL_VIEWS = 720


def full_views(rows: int) -> int:
    """Views of a complete scan for a matrix of this size: 720 from 512 up, proportionally fewer below."""
    return max(round(FULL_VIEWS * min(rows, 512) / 512), 48)


@dataclass(frozen=True)
class CtQuality:
    """A CT acquisition.

    Attributes
    ----------
    dose_fraction
        Photons per reading against the routine.
    views
        Views kept of the 720 over 180 degrees, each with the photons it has in the full set. A matrix below
        512 is scanned with the same share of proportionally fewer views, so that the streaks keep their
        look.
    kernel, cutoff
        Reconstruction filter, and where it ends as a fraction of Nyquist.
    noise_hu
        Noise SD in the liver at full dose and all views: what the exposure control aims at.
    """

    dose_fraction: float = 1.0
    views: int = FULL_VIEWS
    kernel: Filter = Filter.HANN
    cutoff: float = 1.0
    noise_hu: float = 12.0

    def __post_init__(self) -> None:
        if not 0.0 < self.dose_fraction <= 10.0:
            raise ValueError(f"dose fraction out of (0, 10]: {self.dose_fraction}")
        if not 4 <= self.views <= FULL_VIEWS:
            raise ValueError(f"views out of 4 to {FULL_VIEWS}: {self.views}")
        if not self.noise_hu > 0:
            raise ValueError(f"noise target must be positive: {self.noise_hu}")

    def views_at(self, rows: int) -> int:
        """Views measured for a matrix of this size."""
        return max(round(self.views * full_views(rows) / FULL_VIEWS), 4)

    @property
    def relative_dose(self) -> float:
        """Dose of the whole rotation against the routine."""
        return self.dose_fraction * self.views / FULL_VIEWS


ROUTINE = CtQuality()
NAMED = {
    "routine": ROUTINE,
    "tenth_dose": CtQuality(dose_fraction=0.1),
    "sparse_views": CtQuality(views=60),
}


def quality_named(quality: str | CtQuality) -> CtQuality:
    """The quality itself, or the one of that name."""
    if isinstance(quality, CtQuality):
        return quality
    try:
        return NAMED[quality]
    except KeyError:
        raise ValueError(f"unknown quality {quality!r}; choose from {', '.join(NAMED)}") from None
