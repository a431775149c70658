"""The pictures of one scored version of a series: what their files are called and what their pixels mean.

All lie in `SpoolLayout.pictures`, the slices numbered from 1 in the order of the result::

    sheet.png          every slice with its score and the findings, for people
    display_<i>.png    the RGB picture that the network judged
    slice_<i>.png      the same slice in 16-bit grey: HU of a CT (also of a PET/CT), SUV or Bq/ml of a PET alone
    pt_<i>.png         the PET of a fused slice on the grid of slice_<i>.png, 16-bit grey
    heat_<i>.png       8-bit grey on the same grid: which places lowered the score, where heat maps are on
    coronal.png        8-bit grey: the body from the front, with the places of the slices in the index
    gallery.json       the index, written last: a folder without it holds nothing to rely on

A pixel of a 16-bit file stands for ``pixel * scale + offset`` in ``unit``. Every picture is turned as radiologists view
it, and all of one slice have the same rows and columns. No file holds a patient's name or identifier.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

__all__ = [
    "INDEX",
    "OVERVIEW",
    "SHEET",
    "ImageManifest",
    "Overview",
    "RenderedSlice",
    "StoredLayer",
    "display_name",
    "heat_name",
    "manifest_to_json",
    "pt_name",
    "read_manifest",
    "slice_name",
]

SHEET = "sheet.png"
OVERVIEW = "coronal.png"
INDEX = "gallery.json"


def display_name(number: int) -> str:
    """Return the file name of what the network saw of a slice, counted from 1."""
    return f"display_{number}.png"


def slice_name(number: int) -> str:
    """Return the file name of a slice in its unit."""
    return f"slice_{number}.png"


def pt_name(number: int) -> str:
    """Return the file name of the PET of a fused slice."""
    return f"pt_{number}.png"


def heat_name(number: int) -> str:
    """Return the file name of the heat map of a slice."""
    return f"heat_{number}.png"


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """A 16-bit grey picture: ``value = pixel * scale + offset`` in ``unit`` ("HU", "SUVbw", "BQML", "relative").

    ``step`` bounds the error of a value: 0 where nothing was rounded. ``low`` and ``high`` are the window that the
    network's picture was made with; ``inverted`` says that it showed high values dark.
    """

    file: str
    unit: str
    scale: float
    offset: float
    step: float
    low: float
    high: float
    inverted: bool = False


@dataclass(frozen=True, slots=True)
class RenderedSlice:
    """One salient slice: the file that the network saw, and its layers, the one that gives the grid first.

    ``pixel_spacing_mm`` is (row, column) of the turned picture; ``index`` and ``position_mm`` as in
    `records.ScoredSlice`. There may be slices without a score: outside the model's domain.
    """

    number: int
    sop_instance_uid: str
    frame_number: int | None
    index: int
    position_mm: float
    display: str
    rows: int
    columns: int
    pixel_spacing_mm: tuple[float, float]
    layers: tuple[StoredLayer, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole stack from the front, head up: square pixels of ``pixel_mm``; ``marks`` are the rows of the slices."""

    file: str
    rows: int
    columns: int
    pixel_mm: float
    marks: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """The index of one folder; ``kind`` is a `records.SeriesKind` value."""

    kind: str
    slices: tuple[RenderedSlice, ...]
    overview: Overview | None = None
    layout: int = 1

    def stored_files(self) -> tuple[str, ...]:
        """Return the names of the 16-bit files, the large ones, which go when the images go."""
        return tuple(layer.file for item in self.slices for layer in item.layers)


_ADAPTER: TypeAdapter[ImageManifest] = TypeAdapter(ImageManifest)


def manifest_to_json(manifest: ImageManifest) -> bytes:
    """Serialise an index for `read_manifest`."""
    return _ADAPTER.dump_json(manifest)


def read_manifest(folder: Path) -> ImageManifest | None:
    """Return the index of a folder, None where there is none; files that it names may have been retired since."""
    try:
        return _ADAPTER.validate_json((folder / INDEX).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
