"""Renders chosen slices: display images for the model, and 16-bit key slices for viewers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.score.display_images import (
    SOFT_TISSUE,
    SUV_RANGE,
    Window,
    ct_display_image,
    fused_display_image,
    pet_display_image,
)
from dicom_qa_node.score.fusion import ct_slice_at
from dicom_qa_node.score.reading_windows import windows_of
from dicom_qa_node.score.resampling import on_slice
from dicom_qa_node.score.slice_geometry import Turn, display_turn
from dicom_qa_node.score.volume import FloatArray, Volume

__all__ = ["KeySlice", "KeySlices", "Layer", "key_slices_of", "render_display_images", "suv_scale"]

DisplayImages = npt.NDArray[np.uint8]

_SAMPLE = 4


def render_display_images(
    volume: Volume, indices: Sequence[int], ct: Volume | None = None, windows: Sequence[Window] | None = None
) -> DisplayImages:
    """Return uint8 RGB pictures of slices, shape (n, rows, columns, 3).

    Parameters
    ----------
    volume
        CT, or PET alone or to be fused.
    indices
        Slices of ``volume``.
    ct
        Fuse with this CT: each picture lies on the grid of the CT slice nearest to the PET slice, the PET is
        resampled onto it through physical space.
    windows
        The window of each slice of a CT; by `reading_windows.windows_of` where they are not given.
    """
    if ct is not None:
        scale = suv_scale(volume)
        pictures = [_fused(volume, index, ct, scale) for index in indices]
        return _turned(pictures, display_turn(ct.direction))
    if volume.kind is SeriesKind.CT:
        chosen = windows_of(volume, indices) if windows is None else windows
        pictures = [
            ct_display_image(volume.voxels[index], window) for index, window in zip(indices, chosen, strict=True)
        ]
    else:
        scale = suv_scale(volume)
        pictures = [pet_display_image(volume.voxels[index] * scale) for index in indices]
    return _turned(pictures, display_turn(volume.direction))


def suv_scale(volume: Volume) -> np.float32:
    """Return the factor to SUV: 1 for SUV, else that which makes the mean over the body 1.

    A dose that stays in the body and spreads evenly has SUV 1 everywhere, so the body's mean lies near 1.
    """
    if volume.unit.startswith("SUV"):
        return np.float32(1.0)
    sample = np.asarray(volume.voxels[:, ::_SAMPLE, ::_SAMPLE], np.float64)
    bright = sample[sample > sample.mean()]
    inside = sample[sample > 0.1 * bright.mean()] if bright.size else bright
    return np.float32(1.0 / inside.mean()) if inside.size and inside.mean() > 0 else np.float32(1.0)


def _fused(pet: Volume, index: int, ct: Volume, scale: np.float32) -> DisplayImages:
    ct_index = ct_slice_at(pet, index, ct)
    hu = ct.voxels[ct_index]
    uptake = on_slice(pet, ct, ct_index) * scale
    return fused_display_image(hu, np.nan_to_num(uptake, nan=0.0))


def _turned(pictures: Sequence[DisplayImages], turn: Turn) -> DisplayImages:
    return np.ascontiguousarray(np.stack([turn.apply(picture) for picture in pictures]), dtype=np.uint8)


Grey = npt.NDArray[np.uint8]

_LARGEST = 65535
_OVERVIEW_COLUMNS = 320
_OVERVIEW_ROWS = 640
_HALF_SLAB_MM = 4.0
_BODY_HU = -300.0
_GAP = 0.75


@dataclass(frozen=True, slots=True)
class Layer:
    """uint16, shape (rows, columns), turned for display; see `spool.rendered_images.StoredLayer` for the rest."""

    pixels: npt.NDArray[np.uint16]
    unit: str
    scale: float
    offset: float
    step: float
    low: float
    high: float
    inverted: bool = False


@dataclass(frozen=True, slots=True)
class KeySlice:
    """A chosen slice: its place in the series and its layers, the one that gives the grid first."""

    sop_instance_uid: str
    frame_number: int | None
    index: int
    position_mm: float
    pixel_spacing_mm: tuple[float, float]
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class KeySlices:
    """The slices, and the stack from the front: uint8, square pixels of ``pixel_mm``, ``marks`` the slices' rows."""

    slices: tuple[KeySlice, ...]
    overview: Grey
    pixel_mm: float
    marks: tuple[float, ...]


def key_slices_of(
    volume: Volume, indices: Sequence[int], ct: Volume | None = None, windows: Sequence[Window] | None = None
) -> KeySlices:
    """Keep slices of a volume; of a fused PET also those of its CT, on whose grid both then lie.

    ``windows`` are those of the slices of a CT; by `reading_windows.windows_of` where they are not given.
    """
    if windows is None:
        alone = ct is None and volume.kind is SeriesKind.CT
        windows = windows_of(volume, indices) if alone else (SOFT_TISSUE,) * len(indices)
    grid = volume if ct is None else ct
    turn = display_turn(grid.direction)
    spacing = grid.spacing_mm[:0:-1] if turn.exchange else grid.spacing_mm[1:]
    slices = tuple(
        KeySlice(
            sop_instance_uid=volume.sop_instance_uids[index],
            frame_number=volume.frame_numbers[index],
            index=index,
            position_mm=float(volume.positions_mm[index]),
            pixel_spacing_mm=(float(spacing[0]), float(spacing[1])),
            layers=_layers(volume, index, ct, turn, window),
        )
        for index, window in zip(indices, windows, strict=True)
    )
    overview, pixel_mm, marks = _overview(volume, indices)
    return KeySlices(slices, overview, pixel_mm, marks)


def _layers(volume: Volume, index: int, ct: Volume | None, turn: Turn, window: Window) -> tuple[Layer, ...]:
    if ct is None:
        values = turn.apply(volume.voxels[index])
        if volume.kind is SeriesKind.CT:
            return (_ct_layer(values, volume, window),)
        return (_pet_layer(values, volume, inverted=True),)
    place = ct_slice_at(volume, index, ct)
    uptake = np.nan_to_num(on_slice(volume, ct, place), nan=0.0)
    base = _ct_layer(turn.apply(ct.voxels[place]), ct, SOFT_TISSUE)
    return base, _pet_layer(turn.apply(uptake), volume, inverted=False)


def _ct_layer(values: npt.NDArray[np.generic], volume: Volume, window: Window) -> Layer:
    half = window.width_hu / 2
    return _layer(values, volume.unit, window.centre_hu - half, window.centre_hu + half)


def _pet_layer(values: npt.NDArray[np.generic], volume: Volume, *, inverted: bool) -> Layer:
    # The network's window is in SUV; where that is unknown, it saw values relative to the body's mean.
    factor = float(suv_scale(volume))
    return _layer(values, volume.unit, SUV_RANGE[0] / factor, SUV_RANGE[1] / factor, inverted=inverted)


def _layer(values: npt.NDArray[np.generic], unit: str, low: float, high: float, *, inverted: bool = False) -> Layer:
    """Store whole numbers as they are, others in steps of the 65,535th part of their range."""
    exact = np.nan_to_num(np.asarray(values, np.float64))
    least, most = float(exact.min()), float(exact.max())
    scale, step = 1.0, 0.0
    if most - least > _LARGEST or np.any(exact != np.rint(exact)):
        scale = (most - least) / _LARGEST or 1.0
        step = scale / 2
    pixels = np.rint((exact - least) / scale).astype(np.uint16)
    return Layer(pixels, unit, scale, least, step, low, high, inverted)


def _overview(volume: Volume, indices: Sequence[int]) -> tuple[Grey, float, tuple[float, ...]]:
    """Look at a stack from the front: CT through the body's middle, PET as maximum along the way of looking."""
    turn = display_turn(volume.direction)
    row_mm, column_mm = volume.spacing_mm[:0:-1] if turn.exchange else volume.spacing_mm[1:]
    if volume.kind is SeriesKind.CT:
        seen = _through_body(volume, turn, row_mm)
        low, high = SOFT_TISSUE.centre_hu - SOFT_TISSUE.width_hu, SOFT_TISSUE.centre_hu + SOFT_TISSUE.width_hu
    else:
        seen = np.stack([turn.apply(plane).max(axis=0) for plane in volume.voxels])
        low, high = SUV_RANGE[1] / float(suv_scale(volume)), 0.0
    grey = np.rint(np.clip((seen - low) / (high - low), 0.0, 1.0) * 255.0).astype(np.uint8)
    return _to_scale(grey, volume, column_mm, [float(volume.positions_mm[index]) for index in indices])


def _through_body(volume: Volume, turn: Turn, row_mm: float) -> FloatArray:
    """Return the mean of a slab of 8 mm from left to right through the middle of the body, (slices, columns)."""
    middle = np.asarray(turn.apply(volume.voxels[len(volume.voxels) // 2]), np.float32)
    filled = np.flatnonzero((middle > _BODY_HU).mean(axis=1) > 0.05)
    centre = int(np.median(filled)) if filled.size else middle.shape[0] // 2
    half = max(round(_HALF_SLAB_MM / max(row_mm, 1e-3)), 0)
    rows = slice(max(centre - half, 0), centre + half + 1)
    return np.stack([np.asarray(turn.apply(plane)[rows], np.float32).mean(axis=0) for plane in volume.voxels])


def _to_scale(
    grey: Grey, volume: Volume, column_mm: float, wanted_mm: Sequence[float]
) -> tuple[Grey, float, tuple[float, ...]]:
    """Give the picture square pixels, head up, with gaps where slices are missing."""
    places, slice_mm = volume.positions_mm, max(volume.spacing_mm[0], 1e-3)
    length, width = float(places[-1] - places[0]) + slice_mm, grey.shape[1] * column_mm
    pixel_mm = max(length / _OVERVIEW_ROWS, width / _OVERVIEW_COLUMNS)
    rows, columns = max(round(length / pixel_mm), 1), max(round(width / pixel_mm), 1)
    narrow = np.asarray(Image.fromarray(grey).resize((columns, len(grey)), Image.Resampling.BOX))
    at_mm = places[0] - slice_mm / 2 + (np.arange(rows) + 0.5) * pixel_mm
    nearest = np.abs(at_mm[:, None] - places[None, :]).argmin(axis=1)
    picture = narrow[nearest]
    picture[np.abs(at_mm - places[nearest]) > _GAP * slice_mm] = 0
    marks = (np.asarray(wanted_mm) - places[0] + slice_mm / 2) / pixel_mm
    way = volume.direction[:, 0]
    if abs(way[2]) == np.abs(way).max() and way[2] > 0:
        picture, marks = picture[::-1], rows - marks
    return np.ascontiguousarray(picture), float(pixel_mm), tuple(float(mark) for mark in marks)
