"""Arrays too large for memory: kept in an unnamed temporary file and mapped, so that their pages may be dropped."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from dicom_qa_node.errors import Transient

__all__ = ["Scratch"]

_DROP_AFTER_BYTES = 128 << 20


class Scratch:
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
