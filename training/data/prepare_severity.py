"""Prepare pictures of known severity from real DICOM series: CT dose, views and blur; PET counts.

Each series is one group. Eight to twelve slices of each are degraded by physics (``training/degrade.py``), shown as the
node shows them (``dicom_qa_node/score/display_images.py``) and labelled by ``training/severity.py``. Clean fused slices
are kept as well, to be given the display degradations of PET-CT-IQA-DS while training. ``ct_variety`` holds more slices
of the same CT series as other kernels and windows would show them: for training only, since no scanner made them.

    python -m training.data.prepare_severity --source ../shared/data/dicom --out POOLS
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from scipy import ndimage

from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.phantom.ct_acquisition import Scan
from dicom_qa_node.phantom.projector import Filter
from dicom_qa_node.score import display_images
from training import degrade
from training.pool import Row, write_pool
from training.prompts import factors_of_header
from training.severity import simulated_score

_SLICES = 8
_CT_SLICES = 12
_ZOOM = (0.75, 1.3)
_CT_SIDE = 512
_FUSED_SIDE = 256
_AIR_HU = -1000.0
_DOSES = (1.0, 0.5, 0.25, 0.1, 0.05, 0.025)
_VIEWS = (360, 180, 120, 64, 40)
_BOTH = ((0.5, 180), (0.25, 120), (0.1, 64))
_BLURS = (1.0, 2.0)
_COUNTS = (1.0, 0.5, 0.25, 0.1, 0.05, 0.02)
_VARIETY_SLICES = 14
_VARIETY_DOSES = (0.6, 0.35, 0.18, 0.08, 0.035)
_VARIETY_VIEWS = (300, 200, 100, 50)
_OTHER_WINDOW = 0.25

Volume = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Series:
    """One series read back: ``voxels`` (slices, rows, columns) in HU or SUV, ``spacing_mm`` (slice, row, column)."""

    name: str
    voxels: Volume
    spacing_mm: tuple[float, float, float]
    positions_mm: npt.NDArray[np.float64]
    kernel: str
    factors: dict[str, str]
    thickness_mm: float

    def thickness(self, slices: int = 1) -> dict[str, float]:
        """Return the level of thickness of the mean of some neighbouring slices."""
        mm = self.thickness_mm + (slices - 1) * self.spacing_mm[0]
        return {"thickness": float(np.log2(mm) / 2)}


def read_series(folder: Path, name: str, kind: SeriesKind = SeriesKind.CT) -> Series:
    """Read an axial series, ordered along z, that is shown as ``kind``."""
    files = sorted(folder.iterdir())
    return series_of([pydicom.dcmread(file) for file in files if file.is_file()], name, kind)


def series_of(slices: Sequence[pydicom.Dataset], name: str, kind: SeriesKind = SeriesKind.CT) -> Series:
    """Stack the slices of one axial series along z."""
    headers = sorted(slices, key=lambda ds: float(ds.ImagePositionPatient[2]))
    voxels = np.stack([ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in headers]).astype(
        np.float32
    )
    z = np.array([float(ds.ImagePositionPatient[2]) for ds in headers])
    rows, columns = (float(v) for v in headers[0].PixelSpacing)
    kernel = str(headers[0].get("ConvolutionKernel", ""))
    gap = float(np.median(np.diff(z)))
    thickness = float(headers[0].get("SliceThickness") or gap)
    return Series(name, voxels, (gap, rows, columns), z, kernel, factors_of_header(headers[0], kind), thickness)


def noise_level(hu: npt.NDArray[np.float32]) -> float:
    """Global noise level in HU: mode of the SD in 9x9 windows of soft tissue (Christianson 2015, AJR 205:W93)."""
    mean = ndimage.uniform_filter(hu, 9)
    sd = np.sqrt(np.maximum(ndimage.uniform_filter(hu * hu, 9) - mean * mean, 0.0))
    values = sd[(mean > 0) & (mean < 150) & (sd < 120)]
    if values.size < 500:
        return 12.0
    histogram, edges = np.histogram(values, 120, (0, 120))
    return float(max(edges[int(ndimage.uniform_filter1d(histogram, 5).argmax())], 4.0))


def ct_rows(series: Series, rng: np.random.Generator) -> Iterator[tuple[npt.NDArray[np.uint8], Row]]:
    """Degrade twelve slices of a CT series: as they are, three averaged (thick), and at another field of view."""
    window = display_images.window_for_kernel(series.kernel)
    kernel = Filter.RAM_LAK if window is display_images.LUNG else Filter.HANN
    for count, index in enumerate(np.linspace(1, len(series.voxels) - 2, _CT_SLICES).round().astype(int)):
        hu, pixel_mm = _square(series.voxels[index]), series.spacing_mm[1]
        if count % 3 == 1:
            hu = series.voxels[index - 1 : index + 2].mean(axis=0)
        if count % 3 == 2:
            factor = float(rng.uniform(*_ZOOM))
            hu, pixel_mm = zoomed(hu, factor), pixel_mm / factor
        scan = degrade.scan_of(hu, pixel_mm, noise_level(hu), kernel=kernel)
        slice_id = f"{series.name}/{index}"
        for image, levels, score in ct_versions(hu, scan, pixel_mm, rng):
            known = levels | series.thickness(3 if count % 3 == 1 else 1)
            row = Row(f"dicom/{series.name}", slice_id, "ct", "simulated", score, known, factors=series.factors)
            yield display_images.ct_display_image(image, window)[..., :1], row


def variety_rows(series: Series, rng: np.random.Generator) -> Iterator[tuple[npt.NDArray[np.uint8], Row]]:
    """Degrade slices of a CT series after another kernel, at another field of view, in another window."""
    indices = np.linspace(0, len(series.voxels) - 1, _VARIETY_SLICES).round().astype(int)
    for count, index in enumerate(indices):
        factor = float(rng.uniform(*_ZOOM)) if count % 2 else 1.0
        hu = other_kernel(series.voxels[index], float(rng.uniform(-0.6, 1.0)))
        hu, pixel_mm = (zoomed(hu, factor) if factor != 1 else _square(hu)), series.spacing_mm[1] / factor
        kernels = list(Filter)
        kernel = kernels[int(rng.integers(len(kernels)))]
        scan = degrade.scan_of(hu, pixel_mm, noise_level(hu), kernel=kernel)
        window = _other_window(display_images.window_for_kernel(series.kernel), rng)
        for image, levels, score in _variety_versions(hu, scan, pixel_mm, rng):
            slice_id, known = f"{series.name}/{index}/variety", levels | series.thickness()
            factors = series.factors | {"type": ""}
            row = Row(f"dicom/{series.name}", slice_id, "ct", "simulated", score, known, factors=factors)
            yield display_images.ct_display_image(image, window)[..., :1], row


def _variety_versions(
    hu: Volume, scan: Scan, pixel_mm: float, rng: np.random.Generator
) -> Iterator[tuple[Volume, dict[str, float], float]]:
    """Yield (HU, levels, score) at doses, views and blurs between those of `ct_versions`."""
    yield hu, _levels(), simulated_score()
    for middle in _VARIETY_DOSES:
        dose = float(middle * rng.uniform(0.8, 1.25))
        yield degrade.low_dose(hu, scan, dose, rng), _levels(dose=dose), simulated_score(dose=dose)
    for middle in _VARIETY_VIEWS:
        views = round(middle * rng.uniform(0.85, 1.2))
        yield degrade.sparse_views(hu, scan, views), _levels(views=views), simulated_score(views=views)
    blur = float(rng.uniform(0.7, 2.5))
    yield degrade.kernel_blur(hu, blur * pixel_mm, pixel_mm), _levels(blur=blur), simulated_score(blur_px=blur)


def other_kernel(hu: Volume, amount: float) -> Volume:
    """Soften by a Gaussian of ``amount`` pixels, or sharpen by that share of the high pass where it is negative."""
    soft = np.asarray(ndimage.gaussian_filter(hu, amount if amount > 0 else 1.0, mode="nearest"), np.float32)
    return soft if amount > 0 else np.asarray(np.maximum(hu - amount * (hu - soft), _AIR_HU), np.float32)


def _other_window(usual: display_images.Window, rng: np.random.Generator) -> display_images.Window:
    """Return the usual window a little wider or narrower, now and then that of the other kernels."""
    if rng.random() < _OTHER_WINDOW:
        usual = display_images.SOFT_TISSUE if usual is display_images.LUNG else display_images.LUNG
    shift, scale = rng.uniform(-0.07, 0.07), rng.uniform(0.75, 1.3)
    return display_images.Window(
        "varied", usual.centre_hu + float(shift) * usual.width_hu, usual.width_hu * float(scale)
    )


def zoomed(hu: Volume, factor: float) -> Volume:
    """Resample to pixels ``factor`` times smaller and keep the middle 512x512, air around it."""
    scaled = np.asarray(ndimage.zoom(hu, factor, order=1, mode="nearest", grid_mode=True), np.float32)
    result = np.full((_CT_SIDE, _CT_SIDE), _AIR_HU, np.float32)
    side = min(scaled.shape[0], _CT_SIDE)
    of, into = (scaled.shape[0] - side) // 2, (_CT_SIDE - side) // 2
    result[into : into + side, into : into + side] = scaled[of : of + side, of : of + side]
    return result


def ct_versions(
    hu: Volume, scan: Scan, pixel_mm: float, rng: np.random.Generator
) -> Iterator[tuple[Volume, dict[str, float], float]]:
    """Yield (HU, levels, score) for every severity of one slice."""
    for dose in _DOSES:
        image = degrade.low_dose(hu, scan, dose, rng) if dose < 1 else hu
        yield image, _levels(dose=dose), simulated_score(dose=dose)
    for views in _VIEWS:
        yield degrade.sparse_views(hu, scan, views), _levels(views=views), simulated_score(views=views)
    for dose, views in _BOTH:
        image = degrade.low_dose(degrade.sparse_views(hu, scan, views), scan, dose, rng)
        yield image, _levels(dose=dose, views=views), simulated_score(dose=dose, views=views)
    for blur in _BLURS:
        image = degrade.kernel_blur(hu, blur * pixel_mm, pixel_mm)
        yield image, _levels(blur=blur), simulated_score(blur_px=blur)


def _levels(dose: float = 1.0, views: float = 720.0, blur: float = 0.0) -> dict[str, float]:
    return {"dose": -np.log2(dose) / 2, "views": np.log2(720 / views) / 2, "blur": blur}


def pet_rows(ct: Series, pet: Series, rng: np.random.Generator) -> Iterator[tuple[npt.NDArray[np.uint8], Row]]:
    """Reduce the counts of eight slices of a PET/CT pair; fused, and PET alone."""
    group = f"petct/{ct.name}"
    indices = np.linspace(3, len(ct.voxels) - 4, _SLICES).round().astype(int)
    for fraction in _COUNTS:
        reduced = pet.voxels
        if fraction < 1:
            reduced = degrade.fewer_counts(pet.voxels, fraction, pet.spacing_mm, rng)
        score = simulated_score(counts=fraction)
        for index in indices:
            nearest = int(np.abs(pet.positions_mm - ct.positions_mm[index]).argmin())
            suv = _onto(reduced[nearest], ct.voxels[index].shape)
            levels = {"counts": float(-np.log2(fraction) / 2)} | pet.thickness()
            fused = display_images.fused_display_image(ct.voxels[index], suv)
            clean = {"jpeg": 0.0, "gauss": 0.0, "impulse": 0.0}
            yield (
                display_images.pad_image(fused, _FUSED_SIDE, SeriesKind.PETCT),
                Row(group, f"{group}/{index}", "petct", "simulated", score, levels | clean, factors=pet.factors),
            )
            yield (
                display_images.pad_image(display_images.pet_display_image(suv), _FUSED_SIDE, SeriesKind.PT),
                Row(group, f"{group}/{index}/pt", "pt", "simulated", score, levels, factors=pet.factors),
            )


def _onto(plane: Volume, shape: tuple[int, ...]) -> Volume:
    factors = [target / source for target, source in zip(shape, plane.shape, strict=True)]
    return np.asarray(ndimage.zoom(plane, factors, order=1, mode="nearest", grid_mode=True), np.float32)


def _square(hu: Volume) -> Volume:
    if hu.shape != (_CT_SIDE, _CT_SIDE):
        raise ValueError(f"CT slices of {_CT_SIDE}x{_CT_SIDE} are expected, not {hu.shape}")
    return hu


def main() -> None:
    """Write the pools ``ct_severity``, ``petct_severity`` and ``ct_variety``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=20)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    pairs: list[tuple[npt.NDArray[np.uint8], Row]] = []
    for folder in sorted((arguments.source / "petct").glob("*/CT")):
        name = folder.parent.name
        pet = read_series(folder.parent / "PET", name, SeriesKind.PT)
        pairs += pet_rows(read_series(folder, name, SeriesKind.CT), pet, rng)
    _write(arguments.out / "petct_severity", pairs)
    scans = [
        read_series(folder, folder.name, SeriesKind.CT)
        for folder in sorted((arguments.source / "ct").iterdir())
        if folder.is_dir()
    ]
    for name, make in (("ct_severity", ct_rows), ("ct_variety", variety_rows)):
        _write(arguments.out / name, [pair for series in scans for pair in make(series, rng)])


def _write(folder: Path, pairs: list[tuple[npt.NDArray[np.uint8], Row]]) -> None:
    write_pool(folder, [image for image, _ in pairs], [row for _, row in pairs])


if __name__ == "__main__":
    main()
