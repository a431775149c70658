"""CT and PET volumes with a known truth as the measurements take them; no data is read."""

from __future__ import annotations

import numpy as np
from pydicom import Dataset
from scipy import fft, ndimage

from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.score.volume import Volume

SUPINE_AXIAL = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


def header(**elements):
    made = Dataset()
    usual = {"PatientPosition": "HFS", "ConvolutionKernel": "B30f", "SliceThickness": 3.0}
    for keyword, value in {**usual, **elements}.items():
        setattr(made, keyword, value)
    return made


def volume(
    voxels,
    spacing_mm=(3.0, 0.7, 0.7),
    kind=SeriesKind.CT,
    unit="HU",
    origin_mm=(0.0, 0.0, 0.0),
    positions_mm=None,
    direction=SUPINE_AXIAL,
    **elements,
):
    count = len(voxels)
    positions = np.arange(count) * spacing_mm[0] if positions_mm is None else np.asarray(positions_mm, float)
    return Volume(
        voxels=voxels,
        kind=kind,
        unit=unit,
        spacing_mm=spacing_mm,
        origin_mm=origin_mm,
        direction=direction,
        positions_mm=positions,
        sop_instance_uids=tuple(f"1.2.3.{i}" for i in range(count)),
        sop_class_uids=("1.2.840.10008.5.1.4.1.1.2",) * count,
        frame_numbers=(None,) * count,
        header=header(**elements),
    )


def scanned(generated, kind, unit, **elements):
    """The volume of a generated patient at its place in the scanner."""
    x, y = generated.first_pixel_mm
    step = float(np.diff(generated.heights_mm)[0])
    origin = (x, y, float(generated.heights_mm[0]))
    spacing = (step, generated.pixel_mm, generated.pixel_mm)
    return volume(generated.voxels, spacing, kind, unit, origin, generated.heights_mm, **elements)


def ellipse(side, pixel_mm, half_mm, centre_mm=(0.0, 0.0), oversample=4):
    """Coverage (0-1) of an ellipse with half axes (row, column), anti-aliased."""
    n = side * oversample
    axis = ((np.arange(n) + 0.5) / oversample - side / 2) * pixel_mm
    rows, columns = (axis - centre_mm[0]) / half_mm[0], (axis - centre_mm[1]) / half_mm[1]
    inside = rows[:, None] ** 2 + columns[None, :] ** 2 <= 1.0
    return inside.reshape(side, oversample, side, oversample).mean(axis=(1, 3)).astype(np.float32)


def patient(
    side=320,
    pixel_mm=0.9,
    half_mm=(90.0, 125.0),
    blur_mm=0.0,
    soft_hu=55.0,
    skin_mm=2.0,
    fat_mm=20.0,
    centre_mm=(0.0, 0.0),
):
    """A clean slice: skin, fat, soft tissue; ``blur_mm`` is the SD of a Gaussian point spread."""
    image = np.full((side, side), -1000.0, np.float32)
    for depth, hu in ((0.0, 20.0), (skin_mm, -105.0), (skin_mm + fat_mm, soft_hu)):
        inside = ellipse(side, pixel_mm, (half_mm[0] - depth, half_mm[1] - depth), centre_mm)
        image += inside * (hu - image)
    return ndimage.gaussian_filter(image, blur_mm / pixel_mm) if blur_mm else image


def coloured(shape, sd, pixel_mm, rng, peak_per_mm=0.25):
    """Noise of SD ``sd`` with the spectrum of filtered backprojection: a ramp under a Gaussian of ``peak_per_mm``."""
    fy, fx = fft.fftfreq(shape[-2], pixel_mm), fft.rfftfreq(shape[-1], pixel_mm)
    f = np.hypot(fy[:, None], fx[None, :])
    amplitude = np.sqrt(f * np.exp(-(f**2) / (2 * peak_per_mm**2))).astype(np.float32)
    noise = fft.irfft2(fft.rfft2(rng.standard_normal(shape, np.float32)) * amplitude, s=shape[-2:])
    return (noise * (sd / noise.std())).astype(np.float32)


def ct(slices=6, noise_hu=12.0, seed=1, pixel_mm=0.9, spacing=3.0, peak_per_mm=0.25, elements=None, **anatomy):
    """A still patient of elliptic cross section in noise."""
    rng = np.random.default_rng(seed)
    voxels = np.repeat(patient(pixel_mm=pixel_mm, **anatomy)[None], slices, axis=0)
    if noise_hu:
        voxels = voxels + coloured(voxels.shape, noise_hu, pixel_mm, rng, peak_per_mm)
    return volume(voxels, (spacing, pixel_mm, pixel_mm), **(elements or {}))


def values(measurements):
    return {found.name: found.value for found in measurements}


def reasons(measurements):
    return {found.name: found.not_applicable for found in measurements if found.value is None}


class Slicewise:
    """Voxels that can only be read in parts, as those of a very large series; unfolding them whole is an error."""

    def __init__(self, stored):
        self._stored = stored
        self.shape = stored.shape

    def __len__(self):
        return len(self._stored)

    def __getitem__(self, key):
        first = key[0] if isinstance(key, tuple) else key
        assert isinstance(first, int | np.integer), f"read slice by slice, not {key}"
        return self._stored[key].astype(np.float32)

    def __array__(self, *_, **__):
        raise AssertionError("the whole volume was unfolded")
