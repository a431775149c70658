"""CT and PET volumes of known noise, blur, size and shift, made from ellipses; no data is read."""

from __future__ import annotations

import numpy as np
from pydicom import Dataset
from scipy import fft, ndimage

from dicom_qa_node.records import SeriesKind
from dicom_qa_node.score.volume import Volume

SUPINE_AXIAL = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


def header(**elements):
    made = Dataset()
    for keyword, value in {"PatientPosition": "HFS", "ConvolutionKernel": "B30f", "SliceThickness": 3.0, **elements}.items():
        setattr(made, keyword, value)
    return made


def volume(voxels, spacing_mm=(3.0, 0.7, 0.7), kind=SeriesKind.CT, unit="HU", origin_mm=(0.0, 0.0, 0.0), positions_mm=None, **elements):
    count = len(voxels)
    positions = np.arange(count) * spacing_mm[0] if positions_mm is None else np.asarray(positions_mm, float)
    return Volume(
        voxels=voxels,
        kind=kind,
        unit=unit,
        spacing_mm=spacing_mm,
        origin_mm=origin_mm,
        direction=SUPINE_AXIAL,
        positions_mm=positions,
        sop_instance_uids=tuple(f"1.2.3.{i}" for i in range(count)),
        sop_class_uids=("1.2.840.10008.5.1.4.1.1.2",) * count,
        frame_numbers=(None,) * count,
        header=header(**elements),
    )


def ellipse(side, pixel_mm, half_mm, centre_mm=(0.0, 0.0), oversample=4):
    """Coverage (0-1) of an ellipse with half axes (row, column), anti-aliased."""
    n = side * oversample
    axis = ((np.arange(n) + 0.5) / oversample - side / 2) * pixel_mm
    inside = ((axis[:, None] - centre_mm[0]) / half_mm[0]) ** 2 + ((axis[None, :] - centre_mm[1]) / half_mm[1]) ** 2 <= 1.0
    return inside.reshape(side, oversample, side, oversample).mean(axis=(1, 3)).astype(np.float32)


def patient(side=384, pixel_mm=0.8, half_mm=(95.0, 135.0), blur_mm=0.0, soft_hu=55.0, skin_mm=2.0, fat_mm=22.0, centre_mm=(0.0, 0.0)):
    """A clean slice: skin, fat, soft tissue; ``blur_mm`` is the SD of a Gaussian point spread."""
    image = np.full((side, side), -1000.0, np.float32)
    for depth, hu in ((0.0, 20.0), (skin_mm, -105.0), (skin_mm + fat_mm, soft_hu)):
        inside = ellipse(side, pixel_mm, (half_mm[0] - depth, half_mm[1] - depth), centre_mm)
        image += inside * (hu - image)
    return ndimage.gaussian_filter(image, blur_mm / pixel_mm) if blur_mm else image


def coloured(shape, sd, pixel_mm, rng, peak_per_mm=0.25):
    """Noise of known SD with the spectrum of filtered backprojection: a ramp under a Gaussian, peak at ``peak_per_mm``."""
    fy, fx = fft.fftfreq(shape[-2], pixel_mm), fft.rfftfreq(shape[-1], pixel_mm)
    f = np.hypot(fy[:, None], fx[None, :])
    # NPS = f exp(-f^2 / (2 p^2)) peaks at p
    amplitude = np.sqrt(f * np.exp(-(f**2) / (2 * peak_per_mm**2))).astype(np.float32)
    noise = fft.irfft2(fft.rfft2(rng.standard_normal(shape, np.float32)) * amplitude, s=shape[-2:])
    return (noise * (sd / noise.std())).astype(np.float32)


def ct(slices=12, noise_hu=12.0, seed=1, pixel_mm=0.8, spacing=3.0, peak_per_mm=0.25, elements=None, **anatomy):
    rng = np.random.default_rng(seed)
    clean = patient(pixel_mm=pixel_mm, **anatomy)
    voxels = np.repeat(clean[None], slices, axis=0)
    if noise_hu:
        voxels = voxels + coloured(voxels.shape, noise_hu, pixel_mm, rng, peak_per_mm)
    return volume(voxels, (spacing, pixel_mm, pixel_mm), **(elements or {}))


def values(measurements):
    return {m.name: m.value for m in measurements}
