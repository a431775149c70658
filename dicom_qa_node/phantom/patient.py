"""Random anatomy of one generated patient, and random textures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from dicom_qa_node.phantom.projector import FloatArray
from dicom_qa_node.phantom.voxel_canvas import Ellipsoid, Point, Tube

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


@dataclass(frozen=True)
class Patient:
    """Build and position; heights are in the anatomy's standard mm, zero at the dome of the diaphragm."""

    seed: int
    sex: str
    age_years: int
    height_m: float
    weight_kg: float
    width: float  # scale of the standard anatomy left to right
    depth: float  # front to back
    fat_mm: float  # subcutaneous, where it is thickest
    centre_mm: tuple[float, float]  # of the body in the scanner, (left, posterior)
    warp: Warp
    texture_mm: tuple[float, float, float]
    lung_vessels: tuple[Tube, ...]
    liver_vessels: tuple[Tube, ...]
    mesentery: tuple[Tube, ...]
    bowel: tuple[Tube, ...]
    lung_lesions: tuple[Ellipsoid, ...]
    liver_lesions: tuple[Ellipsoid, ...]
    nodes: tuple[Ellipsoid, ...]


@lru_cache(maxsize=8)
def draw_patient(seed: int) -> Patient:
    """The patient of a seed; the same seed always gives the same patient."""
    rng = np.random.default_rng([seed, 0x9A7])
    sex = "F" if rng.random() < 0.5 else "M"
    height_m = float(rng.normal(1.64 if sex == "F" else 1.77, 0.06))
    fat_mm = float(np.clip(rng.gamma(4.0, 4.5), 7.0, 40.0))
    bmi = 20.5 + 0.33 * fat_mm
    return Patient(
        seed=seed,
        sex=sex,
        age_years=int(rng.integers(34, 83)),
        height_m=round(height_m, 2),
        weight_kg=round(bmi * height_m**2, 1),
        width=float(rng.uniform(0.93, 1.06)) * (0.95 if sex == "F" else 1.0),
        depth=float(rng.uniform(0.93, 1.08)),
        fat_mm=fat_mm,
        centre_mm=(float(rng.uniform(-8, 8)), float(rng.uniform(-8, 8))),
        warp=Warp.draw(rng),
        texture_mm=(float(rng.uniform(0, 300)), float(rng.uniform(0, 300)), float(rng.uniform(0, 120))),
        lung_vessels=_both_lungs(rng),
        liver_vessels=_liver_tree(rng),
        mesentery=_mesentery(rng),
        bowel=_small_bowel(rng),
        lung_lesions=_spheres(rng, 2, (4, 11), ((-105, -50), (-40, 45), (15, 120)), mirror=True),
        liver_lesions=_spheres(rng, 2, (5, 14), ((-110, -30), (-50, 40), (-100, -25))),
        nodes=_spheres(rng, 3, (4, 8), ((-25, 25), (0, 35), (40, 130))),
    )


def _spheres(
    rng: np.random.Generator,
    most: int,
    radius_mm: tuple[float, float],
    box: tuple[tuple[float, float], ...],
    mirror: bool = False,
) -> tuple[Ellipsoid, ...]:
    found = []
    for _ in range(int(rng.integers(1, most + 1))):
        centre = [float(rng.uniform(low, high)) for low, high in box]
        if mirror and rng.random() < 0.5:
            centre[0] = -centre[0]
        r = float(rng.uniform(*radius_mm))
        half = (r, r * float(rng.uniform(0.8, 1.2)), r * float(rng.uniform(0.9, 1.3)))
        found.append(Ellipsoid((centre[0], centre[1], centre[2]), half, float(rng.uniform(0, 180))))
    return tuple(found)


def _branch(
    rng: np.random.Generator,
    start: Point,
    direction: np.ndarray,
    radius: float,
    depth: int,
    length: float,
    found: list[Tube],
) -> None:
    """Grow a vessel tree: each branch bends, thins after Murray's law and splits in two."""
    end = np.asarray(start) + direction * length
    bend = np.asarray(start) + direction * length * 0.5 + rng.standard_normal(3) * length * 0.08
    thinner = radius * 0.80
    stop = (float(end[0]), float(end[1]), float(end[2]))
    found.append(
        Tube((start, (float(bend[0]), float(bend[1]), float(bend[2])), stop), (radius, radius * 0.92, thinner))
    )
    if depth == 0:
        return
    axis = rng.standard_normal(3)
    axis -= axis @ direction * direction
    axis /= np.linalg.norm(axis)
    for sign in (-1.0, 1.0):
        turned = direction + sign * axis * rng.uniform(0.35, 0.75)
        turned /= np.linalg.norm(turned)
        _branch(rng, stop, turned, thinner, depth - 1, length * rng.uniform(0.72, 0.95), found)


def _both_lungs(rng: np.random.Generator) -> tuple[Tube, ...]:
    found: list[Tube] = []
    for side in (-1.0, 1.0):
        start: Point = (side * 42.0, 8.0, 75.0)
        for target in ((75, -30, 140), (95, 10, 95), (85, -45, 45), (95, 20, 30), (80, 55, -10), (75, 50, 70)):
            direction = np.array([side * target[0], target[1], target[2]]) - start
            direction /= np.linalg.norm(direction)
            _branch(rng, start, direction, 4.6, 6, 25.0, found)
    return tuple(found)


def _liver_tree(rng: np.random.Generator) -> tuple[Tube, ...]:
    found: list[Tube] = []
    roots: tuple[tuple[Point, Point], ...] = (
        ((-24, 16, -18), (-1.0, 0.1, -0.35)),
        ((-24, 10, -18), (-0.6, -0.7, -0.4)),
        ((-20, 5, -20), (0.5, -0.8, -0.3)),
        ((-25, -12, -80), (-1.0, 0.2, 0.35)),
        ((-25, -12, -80), (-0.7, 0.6, -0.4)),
        ((-22, -15, -78), (0.5, -0.6, 0.6)),
    )
    for start, towards in roots:
        direction = np.asarray(towards) / np.linalg.norm(towards)
        _branch(rng, start, direction, 5.0, 5, 26.0, found)
    return tuple(found)


def _mesentery(rng: np.random.Generator) -> tuple[Tube, ...]:
    found: list[Tube] = []
    for _ in range(9):
        direction = rng.standard_normal(3) * (1.0, 0.7, 0.6) + (0, -0.6, -0.5)
        direction /= np.linalg.norm(direction)
        _branch(rng, (float(rng.uniform(-10, 25)), 0.0, -120.0), direction, 3.4, 4, 26.0, found)
    return tuple(found)


def _small_bowel(rng: np.random.Generator) -> tuple[Tube, ...]:
    found = []
    low, high = np.array([-78.0, -72.0, -290.0]), np.array([82.0, 12.0, -128.0])
    for _ in range(15):
        path = smooth_walk(rng, 22, 0.45) * 13.0 + rng.uniform(low, high)
        # a path that leaves the box is mirrored back into it
        span = high - low
        folded = low + span - np.abs((path - low) % (2 * span) - span)
        points = tuple((float(p[0]), float(p[1]), float(p[2])) for p in folded)
        radius = float(rng.uniform(9.5, 14.5))
        found.append(Tube(points, (radius,) * len(points)))
    return tuple(found)
