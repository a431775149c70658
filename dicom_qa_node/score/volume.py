"""The assembled volume, in memory or mapped from an unnamed temporary file."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_qa_node.domain.errors import Transient
from dicom_qa_node.domain.results import Finding, SeriesKind
from dicom_qa_node.score.pet_times import PetTimes
from dicom_qa_node.score.slice_headers import Lossy

__all__ = ["BoolArray", "FloatArray", "MappedStorage", "PackedMask", "PackedVoxels", "Volume"]

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


class PackedVoxels:
    """Voxels of a series too large for memory: 16-bit stored values in a file, rescaled to float32 as they are read.

    It is read like an array, along the first axis first: ``voxels[i]``, ``voxels[10:20]``, ``voxels[::4, ::4, ::4]``
    give float32 arrays of that part. It has no arithmetic of its own, so that nobody unfolds it by accident;
    iterate over slices, or stride.

    Parameters
    ----------
    scratch
        Holds int16 or uint16, shape (slices, rows, columns).
    slope, intercept
        Shape (slices,): the rescale of each slice; there may be fewer of these than of stored slices.
    """

    dtype = np.dtype(np.float32)
    ndim: Literal[3] = 3

    def __init__(
        self, scratch: MappedStorage, slope: npt.NDArray[np.float32], intercept: npt.NDArray[np.float32]
    ) -> None:
        self._scratch = scratch
        self._stored = scratch.array[: len(slope)]
        self._slope = slope
        self._intercept = intercept

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns)."""
        slices, rows, columns = self._stored.shape
        return slices, rows, columns

    @property
    def size(self) -> int:
        """Number of voxels."""
        return int(self._stored.size)

    def __len__(self) -> int:
        return int(self._stored.shape[0])

    def __iter__(self) -> Iterator[FloatArray]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, key: Any) -> FloatArray:
        """Return a part as float32, shaped as numpy's indexing shapes it."""
        first = key[0] if isinstance(key, tuple) else key
        part = self._stored[key]
        slope, intercept = self._slope[first], self._intercept[first]
        if isinstance(slope, np.ndarray):
            shape = (-1,) + (1,) * (part.ndim - 1)
            slope, intercept = slope.reshape(shape), intercept.reshape(shape)
        values: FloatArray = np.multiply(part, slope, dtype=np.float32)
        values += intercept
        self._scratch.touched(len(np.atleast_1d(slope)) * self._stored[0].nbytes)
        return values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Unfold everything; four bytes for each voxel."""
        return self[:].astype(dtype or np.float32, copy=False)


class PackedMask:
    """A mask kept as one bit for each voxel; read like `PackedVoxels`.

    Parameters
    ----------
    bits
        uint8, shape (slices, rows, ceil(columns / 8)), as `numpy.packbits` writes it along the columns.
    columns
        Number of columns.
    """

    def __init__(self, bits: npt.NDArray[np.uint8], columns: int) -> None:
        self._bits = bits
        self._columns = columns

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns)."""
        return self._bits.shape[0], self._bits.shape[1], self._columns

    def __len__(self) -> int:
        return int(self._bits.shape[0])

    def __getitem__(self, key: Any) -> BoolArray:
        """Return a part as bool, shaped as numpy's indexing shapes it."""
        first, *rest = key if isinstance(key, tuple) else (key,)
        part = np.unpackbits(self._bits[first], axis=-1, count=self._columns).view(np.bool_)
        inner = tuple(rest)
        return np.asarray(part[(slice(None), *inner)] if part.ndim == 3 else part[inner])


@dataclass(frozen=True, slots=True)
class Volume:
    """One stack of parallel slices in physical space, ordered along the slice normal.

    Attributes
    ----------
    voxels
        float32, shape (slices, rows, columns), in ``unit`` after the rescale of PS3.3 C.11.1. Above
        `score.stack_pixels.PACK_ABOVE_VOXELS` voxels a `PackedVoxels`: read it slice by slice, ``voxels[i]``, or
        strided; both then give float32.
    unit
        "HU" for CT; "SUVbw" for PET where it can be computed, else "BQML" or "relative".
    spacing_mm
        (slice, row, column): distances between neighbouring voxel centres; along the slice axis the usual distance
        where slices are missing.
    origin_mm
        Patient coordinates (LPS, PS3.3 C.7.6.2.1.1) of the centre of voxel [0, 0, 0].
    direction
        shape (3, 3); column k is the unit vector along which index k (slice, row, column) grows. With a tilted
        gantry the slice axis is not at right angles to the others.
    positions_mm
        shape (slices,): position of each slice along the slice normal; uneven where slices are missing.
    sop_instance_uids, sop_class_uids, frame_numbers
        One per slice; the frame number counts from 1 in a multi-frame object and is None otherwise.
    valid
        bool, shape of ``voxels`` (`PackedMask` for large series), False in padding (Pixel Padding Value, PS3.3
        C.7.5.1.1.2) and outside the scan circle; None: all valid.
    header
        Attributes of the first slice (for a multi-frame object with its functional groups flattened), no pixels.
    stack_name
        Names this stack where one series holds several (acquisition, phase, echo); "" otherwise.
    findings
        What assembly has to say: gaps, duplicates, left-out objects, missing tags.
    origins_mm
        shape (slices, 3): patient coordinates of the centre of the first voxel of each slice.
    blank_mm
        Positions along the normal of slices without an image, which were left out.
    thickness_mm
        Slice Thickness (0018,0050) of each slice, None where it has none; () for a made volume.
    unusable
        Why the voxels can be neither measured nor judged: blank, or on no scale that is known; "" where they can.
    lossy
        The strongest loss that a slice was compressed with, an unknown one first; None where no slice was.
    suv_ratios
        What a SUVbw is multiplied with to give the other SUVs: keys "SUVlbm", "SUVbsa"; those that can be computed.
    pet_times
        Injection, scan start and reference of the decay correction of a PET that was assembled from files.
    """

    voxels: FloatArray | PackedVoxels
    kind: SeriesKind
    unit: str
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: npt.NDArray[np.float64]
    positions_mm: npt.NDArray[np.float64]
    sop_instance_uids: tuple[str, ...]
    sop_class_uids: tuple[str, ...]
    frame_numbers: tuple[int | None, ...]
    header: Dataset
    valid: BoolArray | PackedMask | None = None
    stack_name: str = ""
    findings: tuple[Finding, ...] = field(default_factory=tuple)
    origins_mm: npt.NDArray[np.float64] | None = None
    blank_mm: tuple[float, ...] = ()
    thickness_mm: tuple[float | None, ...] = ()
    unusable: str = ""
    lossy: Lossy | None = None
    suv_ratios: Mapping[str, float] = field(default_factory=dict)
    pet_times: PetTimes | None = None


_DROP_AFTER_BYTES = 128 << 20


class MappedStorage:
    """One array in a file of the temporary folder (``TMPDIR``), gone with its last reference.

    Parameters
    ----------
    shape, dtype
        Of ``array``, which is zero at first.

    Raises
    ------
    Transient
        The folder has no room for it.
    """

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        try:
            with tempfile.TemporaryFile(prefix="dicom-qa-") as file:
                # Reserved now: a full disk must be an error here, not a killed process at the first write.
                os.posix_fallocate(file.fileno(), 0, size)
                self._map = mmap.mmap(file.fileno(), size)
        except OSError as error:
            folder = tempfile.gettempdir()
            raise Transient(f"{folder} has no room for a large series ({size >> 20} MB): {error.strerror}") from error
        self.array: npt.NDArray[Any] = np.frombuffer(self._map, dtype).reshape(shape)
        self._touched = 0
        self._lock = threading.Lock()

    def touched(self, count: int) -> None:
        """Count bytes read or written; now and then the pages are dropped from this process's memory."""
        with self._lock:
            self._touched += count
            if self._touched < _DROP_AFTER_BYTES:
                return
            self._touched = 0
        self._map.madvise(mmap.MADV_DONTNEED)
