"""How much space the file system of the spool has."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DiskUsage", "disk_usage"]


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """Space of the file system that holds the spool, in bytes."""

    total_bytes: int
    free_bytes: int


def disk_usage(folder: Path) -> DiskUsage:
    """Return the space that this process could use around ``folder``."""
    found = os.statvfs(folder)
    return DiskUsage(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)
