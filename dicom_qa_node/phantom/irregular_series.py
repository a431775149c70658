"""Turn a regular generated series into the irregular ones that scanners and archives send."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_qa_node.phantom.image_header import add_pixels, add_plane, decimal, phantom_uid


def without(images: Sequence[Dataset], *indices: int) -> list[Dataset]:
    """The series with some slices missing; negative indices count from the end."""
    gone = {index % len(images) for index in indices}
    return [image for index, image in enumerate(images) if index not in gone]


def with_duplicate(images: Sequence[Dataset], index: int, same_instance: bool = False) -> list[Dataset]:
    """The series with one slice twice: at the same place under a new UID, or the very same instance re-sent."""
    twin = copy.deepcopy(images[index])
    if not same_instance:
        _rename(twin, "duplicate")
        twin.InstanceNumber = len(images) + 1
    return [*images, twin]


def with_other_bytes(image: Dataset) -> Dataset:
    """The same SOP Instance UID with one pixel changed: what a receiver must keep apart."""
    twin = copy.deepcopy(image)
    pixels = bytearray(twin.PixelData)
    pixels[len(pixels) // 2] ^= 1
    twin.PixelData = bytes(pixels)
    return twin


def with_gap(images: Sequence[Dataset], after: int, extra_mm: float) -> list[Dataset]:
    """The series with ``extra_mm`` more between the slices ``after`` and ``after + 1``."""
    moved = []
    for index, image in enumerate(images):
        shifted = copy.deepcopy(image)
        if index > after:
            along = np.cross(image.ImageOrientationPatient[:3], image.ImageOrientationPatient[3:])
            place = np.asarray(image.ImagePositionPatient, float) + extra_mm * along
            shifted.ImagePositionPatient = [decimal(value) for value in place]
            if "SliceLocation" in shifted:
                shifted.SliceLocation = decimal(place[2])
        moved.append(shifted)
    return moved


def another_acquisition(images: Sequence[Dataset], number: int = 2, offset_hu: float = 20.0) -> list[Dataset]:
    """The same slices acquired again in the same series (another phase): new instances at the same positions."""
    again = []
    for image in images:
        repeat = copy.deepcopy(image)
        _rename(repeat, f"acquisition {number}")
        repeat.AcquisitionNumber = number
        repeat.InstanceNumber = int(image.InstanceNumber) + len(images)
        repeat.RescaleIntercept = decimal(float(image.RescaleIntercept) + offset_hu)
        again.append(repeat)
    return again


def localizer(images: Sequence[Dataset]) -> Dataset:
    """A scout view for an axial CT series: the mean of its slices over the depth, as a coronal image."""
    first = images[0]
    stack = np.stack([image.pixel_array.astype(np.float32) for image in images])
    view = np.repeat(stack.mean(axis=1)[::-1], 3, axis=0)
    ds = copy.deepcopy(first)
    _rename(ds, "localizer")
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.InstanceNumber = len(images) + 1
    ds.AcquisitionNumber = 0
    top = max(float(image.ImagePositionPatient[2]) for image in images)
    place = [float(first.ImagePositionPatient[0]), 0.0, top]
    spacing = (float(first.SpacingBetweenSlices) / 3.0, float(first.PixelSpacing[1]))
    add_plane(ds, place, (1.0, 0.0, 0.0, 0.0, 0.0, -1.0), spacing, 500.0)
    for keyword in ("SpacingBetweenSlices", "ImagesInAcquisition", "SliceLocation"):
        if keyword in ds:
            del ds[keyword]
    add_pixels(ds, np.rint(view).astype(stored_type(first)))
    return ds


def stored_type(image: Dataset) -> type[np.int16] | type[np.uint16]:
    """Type of the stored pixels."""
    return np.int16 if image.PixelRepresentation else np.uint16


def _rename(ds: Dataset, reason: str) -> None:
    uid = UID(phantom_uid(0, ds.SOPInstanceUID, reason))
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
