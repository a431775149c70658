"""Delivers reports as Part 10 files into a folder, named after their SOP Instance UID."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from dicom_qa_node.config import FolderTarget, Peer
from dicom_qa_node.deliver.targets.base import CLASSES, Answer, Deferred, DeliveryItem, Refused
from dicom_qa_node.dicom_io.durable import sync_folder, write_new_file
from dicom_qa_node.domain.uids import check_uid

__all__ = ["Folder", "open_target"]

_NEEDS_HELP = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)


class Folder:
    """A folder; a file appears in it whole or not at all, and never replaces another content."""

    def __init__(self, path: Path, sop_class_uid: str) -> None:
        self._path = path
        self._sop_class_uid = sop_class_uid

    def send(self, shipment: DeliveryItem) -> Answer:
        """Write the report durably; see `DeliveryTarget.send`."""
        form = shipment.form(*shipment.classes([self._sop_class_uid]))
        content = shipment.path_of(form).read_bytes()
        target = self._path / f"{check_uid(form.sop_instance_uid, 'SOP Instance UID')}.dcm"
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            return _place(content, target).of(form, shipment.report)
        except OSError as error:
            raise _translated(error) from error

    def check(self) -> Answer:
        """Say whether files can be written; see `DeliveryTarget.check`."""
        probe = self._path / f".{secrets.token_hex(8)}.part"
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            probe.touch(exist_ok=False)
            probe.unlink()
        except OSError as error:
            raise _translated(error) from error
        return Answer("writable")


def open_target(settings: FolderTarget, _calling_ae: str, _peers: Sequence[Peer]) -> Folder:
    """Return the target of a ``folder`` section."""
    return Folder(settings.path, CLASSES[settings.sop_class])


def _place(content: bytes, target: Path) -> Answer:
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        write_new_file(part, content)
        os.link(part, target)
    except FileExistsError:
        if target.read_bytes() != content:
            raise Refused("another file of that name is there", target.name) from None
        sync_folder(target.parent)
        return Answer("there already")
    finally:
        part.unlink(missing_ok=True)
    sync_folder(target.parent)
    return Answer("written")


def _translated(error: OSError) -> Exception:
    words = f"cannot write to the folder: {error.strerror}"
    return Refused(words) if error.errno in _NEEDS_HELP else Deferred(words)
