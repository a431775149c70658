"""Tries at the start of a role whether the file system of the spool keeps the rules that durable writing rests on.

The spool of several hosts lies on a shared file system, and not every one of them can do what `spool.incoming` needs:
fsync of files and folders, a hard link that never replaces, a rename that always does, locks that exclude.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dicom_qa_node.dicom_io.durable import sync_folder
from dicom_qa_node.domain.errors import Misconfigured

__all__ = ["Mount", "check_spool", "concerns_of", "mount_of"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_MOUNTS = Path("/proc/mounts")
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_NO_PROMISE = re.compile(r"9p|cifs|smb\w*|fuse(\..+)?|virtiofs|vboxsf|davfs")
_OTHER_LOCKS = frozenset({"nolock", "local_lock=all", "local_lock=flock"})


class _Broken(Exception):
    """A rule does not hold; the words say which."""


@dataclass(frozen=True, slots=True)
class Mount:
    """What is mounted at a place: the type of its file system and the options, as the kernel lists them."""

    folder: Path
    kind: str
    options: frozenset[str]


def check_spool(root: Path) -> list[str]:
    """Try the rules in a folder of its own below ``root``; return what an operator should know, in words.

    A full disk proves nothing and is not a refusal: the node says so where it matters.

    Raises
    ------
    Misconfigured
        The folder cannot be written, or its file system breaks a rule.
    """
    mount = mount_of(root)
    kind = mount.kind if mount is not None else "unknown"
    folder = root / f".check-{secrets.token_hex(8)}"
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        try:
            for rule in _RULES:
                rule(folder)
        finally:
            _clear(folder)
    except _Broken as error:
        raise Misconfigured(f"spool_dir {root} cannot be used: its file system ({kind}) {error}") from error
    except OSError as error:
        if error.errno not in _FULL:
            raise Misconfigured(f"spool_dir {root} cannot be used ({kind}): {error.strerror}") from error
    return [] if mount is None else concerns_of(mount)


def mount_of(path: Path, mounts: Path = _MOUNTS) -> Mount | None:
    """Return what is mounted where ``path`` lies, None where the kernel does not say."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found: Mount | None = None
    for line in lines:
        fields = line.split()
        if len(fields) < 4:
            continue
        folder = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[1]))
        # The last one mounted at a place hides those before it.
        if path.resolve().is_relative_to(folder) and (found is None or len(folder.parts) >= len(found.folder.parts)):
            found = Mount(folder, fields[2], frozenset(fields[3].split(",")))
    return found


def concerns_of(mount: Mount) -> list[str]:
    """Return what is known to be unsafe about a mount although every call succeeds."""
    found = []
    if mount.kind in _IN_MEMORY:
        found.append(f"{mount.kind} keeps files in memory: a restart of the machine loses what was acknowledged")
    if _NO_PROMISE.fullmatch(mount.kind):
        found.append(f"{mount.kind} does not promise that fsync reaches a disk, nor that locks hold between hosts")
    if mount.kind.startswith("nfs"):
        if "soft" in mount.options:
            found.append("an NFS mount with the option soft gives up writes; mount it hard")
        if mount.options & _OTHER_LOCKS:
            found.append("an NFS mount with local locks: other hosts take files that are being received for abandoned")
    return found


@contextmanager
def _rule(words: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise _Broken(f"{words} ({error.strerror})") from error


def _syncs(folder: Path) -> None:
    with (folder / "one").open("xb") as file:
        file.write(b"one")
        file.flush()
        with _rule("has no fsync of files"):
            os.fsync(file.fileno())
    with _rule("has no fsync of folders"):
        sync_folder(folder)


def _links_once(folder: Path) -> None:
    with _rule("has no hard links"):
        os.link(folder / "one", folder / "linked")
    try:
        with _rule("cannot link"):
            os.link(folder / "one", folder / "linked")
    except _Broken as error:
        if isinstance(error.__cause__, FileExistsError):
            return
        raise
    raise _Broken("lets a hard link replace a file")


def _renames_over(folder: Path) -> None:
    (folder / "two").write_bytes(b"two")
    with _rule("does not let a rename replace a file"):
        (folder / "two").rename(folder / "linked")
    if (folder / "two").exists() or (folder / "linked").read_bytes() != b"two":
        raise _Broken("does not replace a file by a rename")
    if (folder / "one").read_bytes() != b"one":
        raise _Broken("writes through a rename")


def _locks(folder: Path) -> None:
    with (folder / "one").open("r+b") as first, (folder / "one").open("r+b") as second:
        with _rule("has no file locks (flock)"):
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
    raise _Broken("lets two hold the same file lock (flock)")


def _maps(folder: Path) -> None:
    with (folder / "one").open("rb") as file, _rule("cannot map files into memory"):
        try:
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ).close()
        except ValueError as error:
            raise _Broken("shows a file that was written as empty") from error


_RULES: tuple[Callable[[Path], None], ...] = (_syncs, _links_once, _renames_over, _locks, _maps)


def _clear(folder: Path) -> None:
    for name in ("one", "two", "linked"):
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()
