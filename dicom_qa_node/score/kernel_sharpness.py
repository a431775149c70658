"""Sharpness of a CT volume: by the name of its kernel, and by the texture of its noise where the name is unknown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from dicom_qa_node.score.convolution_kernels import Sharpness, kernel_name, sharpness_of_header
from dicom_qa_node.score.physics.ct_noise_power_spectrum import radial_spectrum
from dicom_qa_node.score.physics.ct_sampling import CtSlice, ct_slice
from dicom_qa_node.score.volume import FloatArray, Volume

__all__ = ["KernelSharpness", "NoiseTexture", "noise_texture", "sharpness_of_volume"]

_SLICES = 6
_SIDE_MM = 14.0
_TISSUE_HU = (-150.0, 200.0)
_EXTREME_HU = 500.0
_FEWEST = 6
_MOST = 150
_SHARP_PER_MM = 0.44
_SHARP_NEAR_NYQUIST = (0.38, 0.55)
_WHITE = 0.62
"""Nearly the mean frequency of white noise (0.67), which no soft kernel leaves: up to 0.56 with pixels of 1.4 mm."""


@dataclass(frozen=True, slots=True)
class NoiseTexture:
    """Where the noise of homogeneous tissue has its power.

    ``centroid_per_mm`` is the mean frequency of the power in the plane, each ring weighted by its area; ``of_nyquist``
    the mean of the radial profile over the Nyquist frequency of the pixels (0-1); ``squares`` how many were averaged.
    """

    centroid_per_mm: float
    of_nyquist: float
    squares: int

    @property
    def sharp(self) -> bool:
        """Whether a sharp kernel made it.

        On 89 slices of many scanners, 9 patient series and 6 phantom series soft and medium kernels lie at 0.20 to
        0.41 / mm and sharp ones at 0.45 to 0.55 / mm; pixels above 0.8 mm, which hold less of it, show a sharp kernel
        from 0.38 / mm and 0.55 of Nyquist.
        """
        low, share = _SHARP_NEAR_NYQUIST
        if self.of_nyquist >= _WHITE:
            return True
        return self.centroid_per_mm >= _SHARP_PER_MM or (self.centroid_per_mm >= low and self.of_nyquist >= share)


@dataclass(frozen=True, slots=True)
class KernelSharpness:
    """Sharpness of a volume and what it is known from: the name of the kernel, or the texture of the noise.

    ``sharpness`` is UNKNOWN where neither tells.
    """

    sharpness: Sharpness
    kernel: str
    texture: NoiseTexture | None = None

    @property
    def sharp(self) -> bool:
        """Whether limits for soft-tissue kernels do not hold."""
        return self.sharpness is Sharpness.SHARP

    @property
    def detail(self) -> str:
        """The kernel's name, or how the images showed its sharpness."""
        if self.texture is None:
            return self.kernel
        name = self.kernel or "without a name"
        return f"{name} ({self.sharpness} by its noise, with its power at {self.texture.centroid_per_mm:.2f} / mm)"


def sharpness_of_volume(volume: Volume) -> KernelSharpness:
    """Return the sharpness of a CT volume in HU."""
    named = sharpness_of_header(volume.header)
    kernel = kernel_name(volume.header)
    if named is not Sharpness.UNKNOWN or volume.unit != "HU" or volume.unusable:
        return KernelSharpness(named, kernel)
    texture = noise_texture(volume)
    if texture is None:
        return KernelSharpness(Sharpness.UNKNOWN, kernel)
    return KernelSharpness(Sharpness.SHARP if texture.sharp else Sharpness.SOFT, kernel, texture)


def noise_texture(volume: Volume) -> NoiseTexture | None:
    """Measure the noise of a CT volume in squares of 14 mm of fat and soft tissue, each freed of its slow changes.

    The quieter third of the squares counts: the others hold vessels and borders of organs, which pull the centroid
    down. None where fewer than six squares are found.
    """
    slices = [ct_slice(volume, index) for index in _spread(len(volume.positions_mm))]
    squares = [square for part in slices for square in _squares(part)]
    if len(squares) < _FEWEST:
        return None
    squares = sorted(squares, key=lambda square: float(square.std()))[: max(_FEWEST, len(squares) // 3)][:_MOST]
    stacked = np.stack(squares)
    if float(stacked.std(axis=(1, 2)).max()) < 0.5:
        return None
    pixel_mm = slices[0].mean_pixel_mm
    frequency, profile = radial_spectrum(stacked, pixel_mm)
    power = frequency * profile
    return NoiseTexture(
        centroid_per_mm=float((frequency * power).sum() / power.sum()),
        of_nyquist=float((frequency * profile).sum() / profile.sum() * 2.0 * pixel_mm),
        squares=len(squares),
    )


def _spread(count: int) -> list[int]:
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, _SLICES))})


def _squares(part: CtSlice) -> list[FloatArray]:
    half = max(round(_SIDE_MM / part.mean_pixel_mm / 2), 4)
    mean = ndimage.uniform_filter(part.hu, 2 * half)
    middle = part.deep & (mean > _TISSUE_HU[0]) & (mean < _TISSUE_HU[1])
    found = []
    for row in range(half, part.hu.shape[0] - half, half):
        for column in range(half, part.hu.shape[1] - half, half):
            if middle[row, column]:
                window = np.s_[row - half : row + half, column - half : column + half]
                square = part.hu[window]
                if part.body[window].all() and np.abs(square).max() < _EXTREME_HU:
                    found.append(square)
    return found
