"""Free space of the spool, and the deletion of files listed one by one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from dicom_qa_node.dicom_io.durable import sync_folder
from dicom_qa_node.domain.errors import Transient
from dicom_qa_node.spool.layout import SpoolLayout

__all__ = ["Deletion", "DiskGauge", "DiskUsage", "SpoolFull", "delete_files", "disk_usage"]


class SpoolFull(Transient):
    """There is no space left for another object; receiving resumes when there is."""


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """Space of the file system that holds the spool, in bytes."""

    total_bytes: int
    free_bytes: int


def disk_usage(folder: Path) -> DiskUsage:
    """Return the space that this process could use around ``folder``."""
    found = os.statvfs(folder)
    return DiskUsage(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


_MIB = 1024 * 1024
_MARGIN = 64 * _MIB


class DiskGauge:
    """Says whether there is room: closes below ``min_free_mb`` and opens again above ``resume_free_mb`` (MiB).

    The disk is looked at once in ``every_s`` seconds at most, so it may be asked for each object.
    """

    def __init__(
        self,
        folder: Path,
        min_free_mb: int,
        resume_free_mb: int,
        *,
        every_s: float = 1.0,
        usage: Callable[[Path], DiskUsage] = disk_usage,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._min_free = min_free_mb * _MIB
        self._resume_free = resume_free_mb * _MIB
        self._every_s = every_s
        self._usage = usage
        self._clock = clock
        self._lock = threading.Lock()
        self._look_at = float("-inf")
        self._has_room = True

    def has_room(self) -> bool:
        """Return whether objects may be received now."""
        with self._lock:
            now = self._clock()
            if now >= self._look_at:
                self._look_at = now + self._every_s
                free = self._usage(self._folder).free_bytes
                self._has_room = free >= (self._min_free if self._has_room else self._resume_free)
            return self._has_room

    def require_space(self) -> None:
        """Raise `SpoolFull` unless there is room."""
        if not self.has_room():
            raise SpoolFull("the disk of the spool has reached its watermark")

    def require_space_for_more(self) -> None:
        """Raise `SpoolFull` if the object that is being written would take the disk below the watermark.

        It ends a little above, so that what this one object took does not close the node for the others.
        """
        margin = min(_MARGIN, (self._resume_free - self._min_free) // 2)
        if self._usage(self._folder).free_bytes < self._min_free + margin:
            raise SpoolFull("the object would take the disk of the spool below its watermark")


@dataclass(frozen=True, slots=True)
class Deletion:
    """What came of deleting: how many files went, the bytes they freed, and the paths that could not be deleted."""

    files: int
    freed_bytes: int
    failed: tuple[str, ...]


def delete_files(layout: SpoolLayout, paths: Iterable[str]) -> Deletion:
    """Delete exactly the listed files (paths relative to the spool); one that is gone already is fine.

    Folders are never deleted, and nothing outside the spool is touched.
    """
    files, freed = 0, 0
    failed: list[str] = []
    folders: set[Path] = set()
    for relative in paths:
        path = layout.absolute(relative)
        try:
            size = path.lstat().st_size
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError:
            failed.append(relative)
            continue
        folders.add(path.parent)
        files, freed = files + 1, freed + size
    for folder in folders:
        sync_folder(folder)
    return Deletion(files, freed, tuple(failed))
