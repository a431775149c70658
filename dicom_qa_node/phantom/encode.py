"""Compress generated images into the transfer syntaxes that a node must take (PS3.5 annex A)."""

from __future__ import annotations

import copy

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

from dicom_qa_node.phantom.jpeg_lossless import encode_frame

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
