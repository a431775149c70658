"""Where reports and the documents beside them lie, and how their files become durable."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

from pydicom.errors import InvalidDicomError

from dicom_qa_node.errors import Transient
from dicom_qa_node.spool.layout import sync_folder, uid_key

__all__ = ["BROKEN_DATA", "report_path", "write_report"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
# What pydicom and highdicom raise over values that cannot be read, checked or encoded.
BROKEN_DATA = (
    ArithmeticError, AssertionError, AttributeError, EOFError, InvalidDicomError, LookupError, NotImplementedError,
    RuntimeError, TypeError, ValueError, struct.error,
)  # fmt: skip


def report_path(spool_dir: Path, sop_instance_uid: str) -> Path:
    """Return where a report lies, by its UID."""
    key = uid_key(sop_instance_uid)
    return spool_dir / "reports" / key[:2] / f"{key}.dcm"


def write_report(content: bytes, folder: Path, sop_instance_uid: str) -> Path:
    """Write a report durably under a name made from its UID and return the path.

    Raises
    ------
    Transient
        The disk is full.
    """
    key = uid_key(sop_instance_uid)
    path = folder / key[:2] / f"{key}.dcm"
    part = path.with_suffix(".part")
    try:
        _make_folders(path.parent, folder)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno in _FULL:
            raise Transient("no space is left for reports") from error
        raise Transient(f"the report cannot be written: {error.strerror}") from error
    return path


def _make_folders(folder: Path, root: Path) -> None:
    if folder.is_dir():
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    sync_folder(root)
    sync_folder(root.parent)
