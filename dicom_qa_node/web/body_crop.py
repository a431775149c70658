"""Where the body is in the kept slices of a version: pictures are cropped to it, heat maps end at it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from dicom_qa_node.spool.rendered_images import INDEX, ImageManifest, RenderedSlice, read_manifest

__all__ = ["Box", "body_of", "crop_of"]

Mask = npt.NDArray[np.bool_]

_TISSUE_HU = -400.0
_TISSUE_GREY = 20
_UPTAKE_SHARE = 0.04
_STEP = 4
_MARGIN_SHARE = 0.04
_WORTH_IT = 0.92
"""A crop that keeps more than this share of rows and of columns is not made."""
_LESSER_BODY = 0.1
"""Parts below this share of the largest are not the body: table, tubes. Two legs are two parts."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of pixels: rows ``top`` to ``bottom``, columns ``left`` to ``right``, the ends not included."""

    top: int
    bottom: int
    left: int
    right: int


def crop_of(folder: Path, item: RenderedSlice) -> Box | None:
    """Return one box around the body in all slices of the grid of ``item``; None where it would gain nothing."""
    try:
        at = (folder / INDEX).stat().st_mtime_ns
    except OSError:
        return None
    return _crop(folder, at, item.rows, item.columns)


@lru_cache(maxsize=512)
def _crop(folder: Path, _index_at: int, rows: int, columns: int) -> Box | None:
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    found = [box for item in _of_grid(manifest, rows, columns) if (box := _box(folder, item)) is not None]
    if not found:
        return None
    margin = max(4, round(_MARGIN_SHARE * max(rows, columns)))
    box = Box(
        max(0, min(one.top for one in found) - margin),
        min(rows, max(one.bottom for one in found) + margin),
        max(0, min(one.left for one in found) - margin),
        min(columns, max(one.right for one in found) + margin),
    )
    wide = box.bottom - box.top > _WORTH_IT * rows and box.right - box.left > _WORTH_IT * columns
    return None if wide else box


def _of_grid(manifest: ImageManifest, rows: int, columns: int) -> list[RenderedSlice]:
    return [item for item in manifest.slices if (item.rows, item.columns) == (rows, columns)]


def _box(folder: Path, item: RenderedSlice) -> Box | None:
    body = body_of(folder, item, step=_STEP)
    if body is None or not body.any():
        return None
    rows, columns = np.flatnonzero(body.any(axis=1)), np.flatnonzero(body.any(axis=0))
    return Box(
        int(rows[0]) * _STEP, (int(rows[-1]) + 1) * _STEP, int(columns[0]) * _STEP, (int(columns[-1]) + 1) * _STEP
    )


def body_of(folder: Path, item: RenderedSlice, *, step: int = 1) -> Mask | None:
    """Return where a slice shows the body, its holes filled, shape (rows, columns) of every ``step``-th pixel.

    None where neither the values nor the picture of the slice are there.
    """
    tissue = _tissue(folder, item, step)
    if tissue is None:
        return None
    solid = ndimage.binary_opening(tissue, iterations=max(1, 3 // step))
    labels, count = ndimage.label(solid)
    if not count:
        return np.zeros(tissue.shape, np.bool_)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    parts = np.flatnonzero(sizes >= _LESSER_BODY * sizes.max())
    body: Mask = ndimage.binary_fill_holes(np.isin(labels, parts))
    return body


def _tissue(folder: Path, item: RenderedSlice, step: int) -> Mask | None:
    for layer in item.layers:
        if not (folder / layer.file).is_file():
            continue
        with Image.open(folder / layer.file) as image:
            values = np.asarray(image)[::step, ::step].astype(np.float32) * layer.scale + layer.offset
        limit = _TISSUE_HU if layer.unit == "HU" else layer.low + _UPTAKE_SHARE * (layer.high - layer.low)
        return np.asarray(values > limit)
    if not (folder / item.display).is_file():
        return None
    with Image.open(folder / item.display) as image:
        grey = np.asarray(image.convert("L"))[::step, ::step]
    # PET alone is shown dark on white.
    return np.asarray(grey < 255 - _TISSUE_GREY if np.median(grey[[0, -1]]) > 127 else grey > _TISSUE_GREY)
