"""Durable files: after a crash a file stands whole under its final name, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["replace_file", "replacing", "sync_folder", "write_new_file"]


def replace_file(path: Path, content: bytes, *, mode: int = 0o666, sync_name: bool = True) -> None:
    """Write ``content`` under ``path`` atomically: a temporary file beside it, fsync, rename, fsync of the folder.

    Parameters
    ----------
    mode
        Permission bits before the process's umask.
    sync_name
        False leaves the last fsync to the caller, who writes several files into one folder: see `sync_folder`.

    Raises
    ------
    OSError
        Nothing has changed under ``path``; the temporary file is gone.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)  # left by a crash
        _write(part, content, mode)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    if sync_name:
        sync_folder(path.parent)


def write_new_file(path: Path, content: bytes) -> None:
    """Write a file that must not exist and fsync it; its name is durable after `sync_folder`.

    Raises
    ------
    FileExistsError
        There is such a file.
    OSError
        It could not be written.
    """
    _write(path, content, 0o666)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write to that stands under ``path`` when the block ends, and not at all when it fails.

    For what is too large for memory; else as `replace_file`.
    """
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
