"""Reads the pixels of one stack: decoded in threads, rescaled, padding marked, broken slices left out."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.score.blank_slices import is_blank, is_cut_short
from dicom_qa_node.score.decoder_pool import (
    BrokenPixels,
    Codestream,
    DecoderPool,
    DecodingTime,
    StoredArray,
    codestreams,
    in_order,
    inflated_frames,
    native_frame,
)
from dicom_qa_node.score.multiframe import flattened
from dicom_qa_node.score.rescale_type import HU, by_the_image, ct_unit
from dicom_qa_node.score.slice_headers import PixelFormat, SliceHeader, open_header
from dicom_qa_node.score.suv import PetScale, pet_scale
from dicom_qa_node.score.volume import BoolArray, FloatArray, MappedStorage, PackedMask, PackedVoxels

__all__ = [
    "MAX_VOXELS",
    "PACK_ABOVE_VOXELS",
    "SliceScale",
    "StackPixels",
    "most_voxels",
    "read_header",
    "read_pixels",
    "read_slice",
    "scale_of",
]

PACK_ABOVE_VOXELS = 200_000_000
"""A series above this many voxels (0.8 GB as float32; 762 slices of 512x512) stays in 16 bits in a temporary file."""

MAX_VOXELS = 1_500_000_000
"""A series above this many voxels is read in part: every second slice, every third ... (3 GB in the file)."""


def most_voxels(slices: Sequence[SliceHeader]) -> int:
    """Return how many voxels of these slices are read: what does not fit 16 bits stays in memory as float32."""
    return MAX_VOXELS if _fits_16_bits(slices) else PACK_ABOVE_VOXELS


_DENSE_PADDING_HU = -900.0
_PADDING_HU = np.float32(-2000.0)
"""What padding of a CT reads where its own value would look like tissue or metal."""


@dataclass(slots=True)
class StackPixels:
    """The pixels of slices; ``kept`` are their indices, ``broken`` the reasons of those that cannot be decoded.

    ``blank`` are the indices of slices without an image; they are kept only where all are blank.
    """

    voxels: FloatArray | PackedVoxels
    valid: BoolArray | PackedMask | None
    kept: list[int]
    broken: dict[int, str]
    unit: str
    scale: PetScale | None
    blank: list[int] = field(default_factory=list)


def read_header(header: SliceHeader) -> Dataset:
    """Read the attributes of a slice again, a frame's functional groups flattened, without pixels."""
    with at.tolerant():
        ds, _ = open_header(header.pixels.path)
        return ds if header.frame is None else flattened(ds, header.frame)


def read_pixels(
    slices: Sequence[SliceHeader],
    decoders: DecoderPool,
    header: Dataset,
    pack_above: int = PACK_ABOVE_VOXELS,
    decoded: Mapping[Path, StoredArray] = MappingProxyType({}),
) -> StackPixels:
    """Decode and rescale slices of one grid.

    Parameters
    ----------
    slices
        In the order of the volume.
    decoders
        Where compressed frames are decoded; its count is also that of the reading threads.
    header
        Attributes of the first slice.
    pack_above
        Number of voxels above which the stored 16-bit values are kept.
    decoded
        The stored values of single-frame files that were decoded before.
    """
    unit, scale = _unit(slices[0], header, slices)
    first = slices[0].pixels
    shape = (len(slices), first.rows, first.columns)
    sink: _FloatSink | _PackedSink
    if np.prod(shape, dtype=np.int64) > pack_above and _fits_16_bits(slices):
        sink = _PackedSink(shape, slices, scale)
    else:
        sink = _FloatSink(shape, slices, scale)
    broken: dict[int, str] = {}
    in_order(_tasks(slices, decoders, sink.put, broken, decoded), decoders.count)
    sound = [index for index in range(len(slices)) if index not in broken]
    kept = [index for index in sound if index not in sink.blank] or sound
    voxels, valid = sink.result(kept)
    return StackPixels(voxels, valid, kept, broken, unit, scale, sorted(sink.blank))


def _fits_16_bits(slices: Sequence[SliceHeader]) -> bool:
    one_sign = len({item.pixels.signed for item in slices}) == 1
    return one_sign and all(item.pixels.bits_allocated <= 16 for item in slices)


def _unit(first: SliceHeader, header: Dataset, slices: Sequence[SliceHeader]) -> tuple[str, PetScale | None]:
    if first.kind.kind is SeriesKind.PT:
        scale = pet_scale(header, [item.acquired for item in slices], _frame_times_ms(slices))
        return scale.unit, scale
    if by_the_image(first.rescale_type, at.words(header, "ImageType")):
        return HU, None
    return ct_unit(first.rescale_type), None


def _frame_times_ms(slices: Sequence[SliceHeader]) -> list[float]:
    texts = [dict(item.traits).get("frame time", "") for item in slices]
    try:
        return [float(text) for text in texts if text]
    except ValueError:
        return []


@dataclass(frozen=True, slots=True)
class SliceScale:
    """How the stored values of a stack become values in ``unit``; ``pet`` is None for a CT."""

    unit: str
    pet: PetScale | None


def scale_of(slices: Sequence[SliceHeader]) -> SliceScale:
    """Return the scale of a stack; for a PET all its slices count."""
    return SliceScale(*_unit(slices[0], read_header(slices[0]), slices))


def read_slice(slices: Sequence[SliceHeader], index: int, decoders: DecoderPool, scale: SliceScale) -> FloatArray:
    """Decode and rescale one slice of a stack, shape (rows, columns), as `read_pixels` does all of them.

    Raises
    ------
    BrokenPixels
        It cannot be decoded.
    """
    item = slices[index]
    own = None if scale.pet is None else replace(scale.pet, factors=(scale.pet.factor(index),))
    sink = _FloatSink((1, item.pixels.rows, item.pixels.columns), [item], own)
    broken: dict[int, str] = {}
    for task in _tasks([item], decoders, sink.put, broken, {}):
        task()
    if broken:
        raise BrokenPixels(broken[0])
    voxels, _ = sink.result([0])
    values: FloatArray = voxels[0]
    return values


Put = Callable[[int, StoredArray], None]
Decode = Callable[[Codestream], StoredArray]


def _tasks(
    slices: Sequence[SliceHeader],
    decoders: DecoderPool,
    put: Put,
    broken: dict[int, str],
    decoded: Mapping[Path, StoredArray],
) -> Iterator[Callable[[], None]]:
    """Yield one task per slice, file by file; a compressed file is taken apart as its turn comes."""
    files: dict[PixelFormat, list[int]] = defaultdict(list)
    for index, item in enumerate(slices):
        files[item.pixels].append(index)
    time = DecodingTime(item.pixels for item in slices)
    decode = partial(time.decode, decoders)
    for pixels, indices in files.items():
        if pixels.path in decoded:
            yield partial(put, indices[0], decoded[pixels.path])
        elif pixels.transfer_syntax.is_encapsulated:
            yield from _compressed(pixels, {slices[index].frame or 0: index for index in indices}, decode, put, broken)
        elif pixels.offset is None:
            yield from _inflated(pixels, {slices[index].frame or 0: index for index in indices}, put, broken)
        else:
            for index in indices:
                frame = slices[index].frame or 0
                yield partial(_guarded, index, partial(native_frame, pixels, frame), put, broken)


def _compressed(
    pixels: PixelFormat, wanted: dict[int, int], decode: Decode, put: Put, broken: dict[int, str]
) -> Iterator[Callable[[], None]]:
    missing = dict(wanted)
    reason = "its file holds too few compressed frames"
    try:
        for frame, stream in enumerate(codestreams(pixels)):
            index = missing.pop(frame, None)
            if index is not None:
                yield partial(_guarded, index, partial(decode, stream), put, broken)
    except BrokenPixels as error:
        reason = str(error)
    broken.update(dict.fromkeys(missing.values(), reason))


def _inflated(
    pixels: PixelFormat, wanted: dict[int, int], put: Put, broken: dict[int, str]
) -> Iterator[Callable[[], None]]:
    missing = dict(wanted)
    reason = "its file holds too few frames"
    try:
        for frame, stored in enumerate(inflated_frames(pixels)):
            index = missing.pop(frame, None)
            if index is not None:
                yield partial(put, index, stored)
            if not missing:
                break
    except BrokenPixels as error:
        reason = str(error)
    broken.update(dict.fromkeys(missing.values(), reason))


def _guarded(index: int, read: Callable[[], StoredArray], put: Put, broken: dict[int, str]) -> None:
    try:
        put(index, read())
    except BrokenPixels as error:
        broken[index] = str(error)


class _FloatSink:
    """Gathers slices as float32 in the volume's unit."""

    def __init__(self, shape: tuple[int, int, int], slices: Sequence[SliceHeader], scale: PetScale | None) -> None:
        self._voxels = np.zeros(shape, np.float32)
        self._slices = slices
        self._scale = scale
        self._valid: BoolArray | None = None
        self.blank: set[int] = set()
        self._lock = threading.Lock()

    def put(self, index: int, stored: StoredArray) -> None:
        slope, intercept = _rescale(self._slices[index], self._scale, index)
        out = self._voxels[index]
        np.multiply(stored, np.float32(slope), out=out, casting="unsafe")
        out += np.float32(intercept)
        outside = _outside(self._slices[index], stored, slope, intercept)
        if _shows_nothing(stored, outside, slope):
            self.blank.add(index)
        if outside is not None:
            self._mask()[index] = ~outside
            if self._slices[index].kind.outside_below is not None:
                out[outside & (out > _DENSE_PADDING_HU)] = _PADDING_HU

    def result(self, kept: Sequence[int]) -> tuple[FloatArray, BoolArray | None]:
        voxels = _compacted(self._voxels, kept)
        return voxels, None if self._valid is None else _compacted(self._valid, kept)

    def _mask(self) -> BoolArray:
        with self._lock:
            if self._valid is None:
                self._valid = np.ones(self._voxels.shape, np.bool_)
            return self._valid


class _PackedSink:
    """Gathers slices as they are stored, in a file; the rescale stays beside them."""

    def __init__(self, shape: tuple[int, int, int], slices: Sequence[SliceHeader], scale: PetScale | None) -> None:
        self._scratch = MappedStorage(shape, np.int16 if slices[0].pixels.signed else np.uint16)
        self._slices = slices
        rescale = np.array([_rescale(item, scale, index) for index, item in enumerate(slices)], np.float32)
        self._slope, self._intercept = rescale[:, 0], rescale[:, 1]
        self._bits: npt.NDArray[np.uint8] | None = None
        self.blank: set[int] = set()
        self._lock = threading.Lock()

    def put(self, index: int, stored: StoredArray) -> None:
        self._scratch.array[index] = stored
        self._scratch.touched(stored.nbytes)
        outside = _outside(self._slices[index], stored, self._slope[index], self._intercept[index])
        if _shows_nothing(stored, outside, float(self._slope[index])):
            self.blank.add(index)
        if outside is not None:
            self._mask()[index] = np.packbits(~outside, axis=-1)
            if self._slices[index].kind.outside_below is not None and self._slope[index] > 0:
                place = self._scratch.array[index]
                limits = np.iinfo(place.dtype)
                low = np.clip((_PADDING_HU - self._intercept[index]) / self._slope[index], limits.min, limits.max)
                dense = stored * self._slope[index] + self._intercept[index] > _DENSE_PADDING_HU
                place[outside & dense] = int(low)

    def result(self, kept: Sequence[int]) -> tuple[PackedVoxels, PackedMask | None]:
        chosen = np.asarray(kept)
        _compacted(self._scratch.array, kept)
        voxels = PackedVoxels(self._scratch, self._slope[chosen], self._intercept[chosen])
        columns = self._scratch.array.shape[2]
        return voxels, None if self._bits is None else PackedMask(_compacted(self._bits, kept), columns)

    def _mask(self) -> npt.NDArray[np.uint8]:
        with self._lock:
            if self._bits is None:
                slices, rows, columns = self._scratch.array.shape
                self._bits = np.full((slices, rows, -(-columns // 8)), 255, np.uint8)
            return self._bits


def _shows_nothing(stored: StoredArray, outside: BoolArray | None, slope: float) -> bool:
    valid = None if outside is None else ~outside
    return slope == 0.0 or is_blank(stored, valid) or is_cut_short(stored, valid)


def _rescale(header: SliceHeader, scale: PetScale | None, index: int) -> tuple[float, float]:
    factor = scale.factor(index) if scale else 1.0
    slope = 1.0 if header.slope is None else header.slope
    return slope * factor, (header.intercept or 0.0) * factor


def _outside(header: SliceHeader, stored: StoredArray, slope: float, intercept: float) -> BoolArray | None:
    """Return where a slice is padding or outside the scan circle, None if nowhere."""
    outside: BoolArray | None = None
    if header.padding is not None:
        low, high = header.padding
        outside = np.asarray((stored >= low) & (stored <= high))
    below = header.kind.outside_below
    if below is not None and slope > 0:
        limit = (below - intercept) / slope
        if stored.min() <= limit:
            low_values = np.asarray(stored <= limit)
            outside = low_values if outside is None else outside | low_values
    return outside if outside is not None and outside.any() else None


def _compacted(array: npt.NDArray[Any], kept: Sequence[int]) -> npt.NDArray[Any]:
    """Close the gaps along the first axis in place."""
    if len(kept) == len(array):
        return array
    for place, index in enumerate(kept):
        array[place] = array[index]
    return array[: len(kept)]
