"""Writes generated images to files, in native and compressed transfer syntaxes."""

from __future__ import annotations

import copy
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

_CATEGORIES = 17
# lengths of a prefix code over the 17 categories of T.81 table H.2; the all-ones word stays free
_LENGTHS = (4,) * 7 + (5,) * 8 + (6,) * 2


def encode_frame(pixels: npt.NDArray[Any]) -> bytes:
    """One 16-bit grey frame, shape (rows, columns), as a JPEG stream of even length.

    Signed samples are coded by their bits, as PS3.5 8.2.1 wants it.
    """
    samples = np.ascontiguousarray(pixels).view(np.uint16).astype(np.int32)
    rows, columns = samples.shape
    stream = b"".join(
        (
            b"\xff\xd8",
            _segment(0xC3, struct.pack(">BHHB3B", 16, rows, columns, 1, 1, 0x11, 0)),
            _segment(0xC4, _huffman_table()),
            _segment(0xDA, struct.pack(">B2B3B", 1, 1, 0x00, 1, 0, 0)),
            _entropy_coded(_differences(samples)),
            b"\xff\xd9",
        )
    )
    return stream + b"\x00" * (len(stream) % 2)


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _huffman_table() -> bytes:
    counts = [_LENGTHS.count(length) for length in range(1, 17)]
    return bytes([0x00, *counts, *range(_CATEGORIES)])


def _differences(samples: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Prediction errors modulo 65536 (T.81 H.1.2): left neighbour, above at the start of a row."""
    predicted = np.empty_like(samples)
    predicted[0, 0] = 1 << 15
    predicted[1:, 0] = samples[:-1, 0]
    predicted[:, 1:] = samples[:, :-1]
    error = (samples - predicted) & 0xFFFF
    # -32768 and 32768 are one value; the standard codes it as 32768, without further bits
    return np.asarray(np.where(error > 32768, error - 65536, error), np.int32).reshape(-1)


def _entropy_coded(differences: npt.NDArray[np.int32]) -> bytes:
    magnitude = np.abs(differences)
    category = np.frexp(magnitude.astype(np.float64))[1].astype(np.int64)
    extra_bits = np.where(category == 16, 0, category)
    extra = np.where(differences < 0, differences + (1 << extra_bits) - 1, differences) & ((1 << extra_bits) - 1)
    codes, lengths = _codes()
    value = (codes[category] << extra_bits) | extra
    length = lengths[category] + extra_bits
    return _packed(value, length)


def _codes() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    codes, code, previous = [], 0, _LENGTHS[0]
    for length in _LENGTHS:
        code <<= length - previous
        codes.append(code)
        code, previous = code + 1, length
    return np.array(codes, np.int64), np.array(_LENGTHS, np.int64)


def _packed(value: npt.NDArray[np.int64], length: npt.NDArray[np.int64]) -> bytes:
    """Concatenate the low ``length`` bits of each value, fill the last byte with ones, stuff zeros after 0xFF."""
    end = np.cumsum(length)
    total = int(end[-1])
    owner = np.repeat(np.arange(value.size), length)
    shift = end[owner] - 1 - np.arange(total)
    bits = ((value[owner] >> shift) & 1).astype(np.uint8)
    packed = np.packbits(np.concatenate([bits, np.ones(-total % 8, np.uint8)]))
    return packed.tobytes().replace(b"\xff", b"\xff\x00")


PLAIN_SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
COMPRESSED_SYNTAXES = (
    RLELossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
)
LOSSY = {JPEGLSNearLossless, JPEG2000}


def encoded(image: Dataset, transfer_syntax_uid: str) -> Dataset:
    """A copy of an uncompressed little endian image in another transfer syntax.

    Lossy syntaxes (near-lossless JPEG-LS within 2 steps, JPEG 2000 at 10:1) set Lossy Image Compression.
    """
    uid = UID(transfer_syntax_uid)
    ds = copy.deepcopy(image)
    if uid in PLAIN_SYNTAXES:
        return _plain(ds, uid)
    if uid == JPEGLosslessSV1:
        frames = ds.pixel_array if ds.get("NumberOfFrames", 1) > 1 else ds.pixel_array[None]
        ds.PixelData = encapsulate([encode_frame(frame) for frame in frames])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = uid
    elif uid == JPEGLSNearLossless:
        ds.compress(uid, jls_error=2, generate_instance_uid=False)
    elif uid == JPEG2000:
        ds.compress(uid, j2k_cr=[10], generate_instance_uid=False)
    elif uid in COMPRESSED_SYNTAXES:
        ds.compress(uid, generate_instance_uid=False)
    else:
        raise ValueError(f"no encoder for transfer syntax {uid.name}")
    if uid in LOSSY:
        ds.LossyImageCompression = "01"
        ds.LossyImageCompressionMethod = "ISO_14495_1" if uid == JPEGLSNearLossless else "ISO_15444_1"
        original = 2 * ds.Rows * ds.Columns * int(ds.get("NumberOfFrames", 1))
        ds.LossyImageCompressionRatio = f"{original / len(ds.PixelData):.2f}"
    return ds


def _plain(ds: Dataset, uid: UID) -> Dataset:
    if uid == ExplicitVRBigEndian:
        raw = ds.PixelData
        swapped = bytearray(len(raw))
        swapped[0::2], swapped[1::2] = raw[1::2], raw[0::2]
        ds.PixelData = bytes(swapped)
    ds.file_meta.TransferSyntaxUID = uid
    return ds


def write(datasets: Iterable[Dataset], folder: Path) -> list[Path]:
    """Save each data set as ``<folder>/<SOP Instance UID>.dcm``; an instance given twice is numbered.

    Returns
    -------
    list[Path]
        The files, in the order of the data sets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken: dict[str, int] = {}
    paths = []
    for ds in datasets:
        uid = str(ds.SOPInstanceUID)
        again = taken.get(uid, 0)
        taken[uid] = again + 1
        path = folder / (f"{uid}-{again}.dcm" if again else f"{uid}.dcm")
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
