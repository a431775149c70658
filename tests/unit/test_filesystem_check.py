"""A role does not start on a file system that would break the promises of the spool, and says why."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.ops.roles import run_role
from dicom_qa_node.spool.filesystem_check import Mount, check_spool, concerns_of, mount_of

REAL_FSYNC, REAL_FLOCK = os.fsync, fcntl.flock


def raising(number: int):
    def call(*_arguments: object, **_more: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def no_fsync_of_folders(descriptor: int) -> None:
    if os.path.isdir(f"/proc/self/fd/{descriptor}"):
        raise OSError(errno.EINVAL, "Invalid argument")
    REAL_FSYNC(descriptor)


def link_that_replaces(source: Path, target: Path) -> None:
    Path(target).write_bytes(Path(source).read_bytes())


def rename_that_copies(source: Path, target: Path) -> None:
    Path(target).write_bytes(source.read_bytes())


BROKEN = {
    "no fsync of files": ("os.fsync", raising(errno.EINVAL)),
    "no fsync of folders": ("os.fsync", no_fsync_of_folders),
    "no hard links": ("os.link", raising(errno.EPERM)),
    "hard link replace": ("os.link", link_that_replaces),
    "does not replace a file by a rename": ("pathlib.Path.rename", rename_that_copies),
    "does not let a rename replace": ("pathlib.Path.rename", raising(errno.EEXIST)),
    "no file locks": ("fcntl.flock", raising(errno.ENOLCK)),
    "two hold the same file lock": ("fcntl.flock", lambda *_arguments: None),
    "cannot map": ("mmap.mmap", raising(errno.ENODEV)),
}


def test_a_sound_file_system_is_left_as_it_was(tmp_path):
    check_spool(tmp_path / "spool")
    assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.parametrize("words", BROKEN)
def test_a_rule_that_does_not_hold_is_refused_in_words(tmp_path, monkeypatch, words):
    monkeypatch.setattr(*BROKEN[words])
    with pytest.raises(Misconfigured, match=f"spool_dir .*{words}"):
        check_spool(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["os.fsync", "os.link", "pathlib.Path.mkdir"])
def test_a_full_disk_is_no_refusal(tmp_path, monkeypatch, call):
    monkeypatch.setattr(call, raising(errno.ENOSPC))
    check_spool(tmp_path)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_a_spool_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match="spool_dir"):
        check_spool(tmp_path / "file" / "spool")


@pytest.mark.parametrize("role", ["receive", "schedule", "score", "deliver"])
def test_every_role_that_writes_looks_first(node_config, monkeypatch, role):
    database = Database(node_config.database_url)
    database.upgrade()
    database.close()
    monkeypatch.setattr("os.link", raising(errno.EPERM))
    with pytest.raises(Misconfigured, match="no hard links"):
        run_role(role, node_config, {})


def test_the_mount_of_a_folder_is_the_innermost_and_the_last(tmp_path):
    mounts = tmp_path / "mounts"
    place = tmp_path / "a b"
    lines = ["overlay / overlay rw 0 0", f"tmpfs {tmp_path} tmpfs rw 0 0", f"proc {tmp_path}x proc rw 0 0"]
    escaped = str(place).replace(" ", "\\040")
    mounts.write_text("\n".join([*lines, f"x {escaped} ext4 rw 0 0", f"server:/qa {escaped} nfs4 rw,soft 0 0", "odd"]))
    assert mount_of(place / "spool", mounts) == Mount(place, "nfs4", frozenset({"rw", "soft"}))
    assert mount_of(tmp_path / "c", mounts).kind == "tmpfs"
    assert mount_of(tmp_path, tmp_path / "none") is None


@pytest.mark.parametrize(
    ("kind", "options", "word"),
    [
        ("tmpfs", "rw", "memory"),
        ("9p", "rw", "fsync"),
        ("fuse.sshfs", "rw", "fsync"),
        ("cifs", "rw", "fsync"),
        ("nfs4", "rw,soft", "hard"),
        ("nfs", "rw,nolock", "local locks"),
        ("nfs4", "rw,hard,local_lock=none", ""),
        ("ext4", "rw", ""),
        ("xfs", "rw", ""),
    ],
)
def test_known_dangers_are_said(kind, options, word):
    found = concerns_of(Mount(Path("/spool"), kind, frozenset(options.split(","))))
    assert [word in text for text in found] == ([True] if word else [])
