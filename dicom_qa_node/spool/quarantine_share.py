"""Keeps the quarantine within its share of the disk: what was refused longest ago leaves first.

What peers send to be refused must not close the node for those whose images it takes. Stored images that were found
damaged later lie in quarantine, too, and never leave by this rule.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from dicom_qa_node.spool.disk_space import DiskUsage, disk_usage
from dicom_qa_node.spool.layout import SpoolLayout

__all__ = ["QuarantineShare"]

HEAD_BYTES = 1 << 20
"""What is kept of an object that is too large for the quarantine."""

_MOST_OBJECTS = 10_000
_LIST_AGAIN_S = 60.0
_LARGEST_PART = 4
_MIB = 1 << 20


class QuarantineShare:
    """The share of one receiver process; all processes count the same folder.

    Parameters
    ----------
    percent
        Of the size of the file system.
    keep_free_mb
        Below this free space only the beginning of a refused object is kept.
    """

    def __init__(
        self,
        layout: SpoolLayout,
        percent: float,
        keep_free_mb: int,
        *,
        usage: Callable[[Path], DiskUsage] = disk_usage,
        clock: Callable[[], float] = time.monotonic,
        most_objects: int = _MOST_OBJECTS,
    ) -> None:
        self._layout, self._percent, self._keep_free = layout, percent, keep_free_mb * _MIB
        self._usage, self._clock, self._most_objects = usage, clock, most_objects
        self._lock = threading.Lock()
        self._listed_at = float("-inf")
        self._added_bytes = self._added_objects = 0

    def bytes_to_keep(self, size_bytes: int) -> int:
        """Return how much of a refused object of this size is kept: all of it, or its beginning."""
        usage = self._usage(self._layout.root)
        too_large = size_bytes > self._share(usage) // _LARGEST_PART
        short = usage.free_bytes - size_bytes < self._keep_free
        return min(size_bytes, HEAD_BYTES) if too_large or short else size_bytes

    def added(self, size_bytes: int) -> int:
        """Count an object that was put in quarantine; delete the oldest while there is too much.

        Returns
        -------
        int
            How many objects were deleted.
        """
        with self._lock:
            self._added_bytes += size_bytes
            self._added_objects += 1
            share, now = self._share(self._usage(self._layout.root)), self._clock()
            unknown = self._added_bytes > share // 20 or self._added_objects > self._most_objects // 20
            if not unknown and now - self._listed_at < _LIST_AGAIN_S:
                return 0
            self._listed_at, self._added_bytes, self._added_objects = now, 0, 0
            return self._trim(share)

    def _share(self, usage: DiskUsage) -> int:
        return int(usage.total_bytes * self._percent / 100)

    def _trim(self, share: int) -> int:
        objects = []
        for path in self._layout.quarantine.glob("*.dcm"):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            objects.append((found.st_mtime, found.st_size, path))
        total, count, deleted = sum(size for _, size, _ in objects), len(objects), 0
        for _, size, path in sorted(objects):
            if total <= share and count <= self._most_objects:
                break
            if _was_refused(path):
                path.unlink(missing_ok=True)
                path.with_suffix(".json").unlink(missing_ok=True)
                total, count, deleted = total - size, count - 1, deleted + 1
        return deleted


def _was_refused(path: Path) -> bool:
    """Return whether an object came from a peer, in contrast to a stored image that was found damaged."""
    try:
        return bool(json.loads(path.with_suffix(".json").read_bytes()).get("calling_ae"))
    except (OSError, ValueError, AttributeError):
        return False
