"""Smooth random fields that make the generated patient look grown rather than drawn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from dicom_qa_node.phantom.projector import FloatArray

_PLANES, _SIDE = 32, 192
_VOXEL_MM = 1.6
_PLANE_MM = 4.0


@lru_cache(maxsize=1)
def _fractal() -> FloatArray:
    """Periodic noise of unit SD, amplitude falling as 1/frequency, shape (planes, rows, columns)."""
    rng = np.random.default_rng(20250701)
    white = rng.standard_normal((_PLANES, _SIDE, _SIDE), np.float32)
    kz = fft.fftfreq(_PLANES, _PLANE_MM)[:, None, None]
    ky = fft.fftfreq(_SIDE, _VOXEL_MM)[None, :, None]
    kx = fft.rfftfreq(_SIDE, _VOXEL_MM)[None, None, :]
    frequency = np.sqrt(kz**2 + ky**2 + kx**2)
    amplitude = 1.0 / np.maximum(frequency, 1.0 / 60.0)
    amplitude[0, 0, 0] = 0.0
    field = fft.irfftn(fft.rfftn(white) * amplitude.astype(np.float32), s=white.shape)
    return np.asarray(field / field.std(), np.float32)


def fractal_plane(x_mm: npt.NDArray[np.float32], y_mm: npt.NDArray[np.float32], z_mm: float) -> FloatArray:
    """Texture on the grid of ``y_mm`` by ``x_mm``, shape (rows, columns), unit SD, continuous along z."""
    volume = _fractal()
    plane = z_mm / _PLANE_MM
    lower = int(np.floor(plane))
    part = plane - lower
    below, above = volume[lower % _PLANES], volume[(lower + 1) % _PLANES]
    mixed = (1.0 - part) * below + part * above
    mixed /= np.float32(np.hypot(1.0 - part, part) * 0.25 + 0.75)
    tall = _interpolated(mixed, y_mm / _VOXEL_MM)
    return np.ascontiguousarray(_interpolated(np.ascontiguousarray(tall.T), x_mm / _VOXEL_MM).T)


def _interpolated(field: FloatArray, position: npt.NDArray[np.float32]) -> FloatArray:
    """Linear interpolation along the first, periodic axis."""
    lower = np.floor(position).astype(np.intp)
    part = (position - lower).astype(np.float32)[:, None]
    below = field[lower % _SIDE]
    below += part * (field[(lower + 1) % _SIDE] - below)
    return below


@dataclass(frozen=True)
class Warp:
    """A gentle displacement, a sum of plane waves: gives every organ its irregular outline."""

    waves: npt.NDArray[np.float64]  # (axis 2, wave, [kx, ky, kz, phase, amplitude_mm])

    @classmethod
    def draw(cls, rng: np.random.Generator, amplitude_mm: float = 1.6) -> Warp:
        """A random warp; wavelengths 45 to 220 mm, the longer the stronger."""
        length = np.geomspace(220.0, 45.0, 5)
        waves = np.empty((2, length.size, 5))
        direction = rng.standard_normal((2, length.size, 3))
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        waves[..., :3] = direction * (2 * np.pi / length)[None, :, None]
        waves[..., 3] = rng.uniform(0, 2 * np.pi, (2, length.size))
        waves[..., 4] = amplitude_mm * (length / 120.0) ** 0.7
        return cls(waves)

    def displacement(
        self, x_mm: npt.NDArray[np.float32], y_mm: npt.NDArray[np.float32], z_mm: float
    ) -> tuple[FloatArray, FloatArray]:
        """Displacement along x and y on the grid, each (rows, columns), in mm."""
        result = []
        for axis in self.waves:
            total = np.zeros((y_mm.size, x_mm.size), np.float32)
            for kx, ky, kz, phase, amplitude in axis:
                # sin(a + b) by outer products: no trigonometry on the full grid
                a, b = kx * x_mm + kz * z_mm + phase, ky * y_mm
                total += np.outer(amplitude * np.cos(b), np.sin(a)).astype(np.float32)
                total += np.outer(amplitude * np.sin(b), np.cos(a)).astype(np.float32)
            result.append(total)
        return result[0], result[1]


def smooth_walk(rng: np.random.Generator, steps: int, roughness: float) -> npt.NDArray[np.float64]:
    """A smooth random path of ``steps`` points in three dimensions, steps of unit length."""
    direction = ndimage.gaussian_filter1d(rng.standard_normal((steps, 3)), 1.0 / roughness, axis=0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return np.cumsum(direction, axis=0)
