"""Where a file lies in the spool: names of our own making, never a string that a peer chose.

::

    instances/3f/<key>.dcm             what was acknowledged with Success
    conflicts/<key>-<content>.dcm      other bytes under a SOP Instance UID that is already stored
    dose_reports/<key>-<content>.dcm   dose reports, one file for each content
    quarantine/<id>.dcm + <id>.json    what was refused, with the reason
    incoming/<id>.part                 being received; locked by its receiver while that lives
    reports/, pictures/                written by later stages; see `result_archive` and `rendered_images`

The key is the first 32 hex digits of the SHA-256 of the SOP Instance UID: one length, no separators, no case.
The path depends on that UID alone, so the file system itself decides, for all receiver processes, who stored an
instance first.
"""

from __future__ import annotations

import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from dicom_qa_node.dicom_io.durable import sync_folder
from dicom_qa_node.domain.errors import Misconfigured, Permanent
from dicom_qa_node.domain.uids import uid_key
from dicom_qa_node.spool.rendered_images import heat_name

__all__ = ["SpoolLayout", "make_private"]


def make_private(folder: Path) -> None:
    """Make a folder and its parents, or take an existing one, with mode 0700 whatever the umask and its mode were.

    Raises
    ------
    Misconfigured
        The folder belongs to another user and is open to others.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) == 0o700:
        return
    try:
        folder.chmod(0o700)
    except PermissionError as error:
        raise Misconfigured(f"{folder} is open to other users and belongs to another: chmod 700 {folder}") from error


class SpoolLayout:
    """The folders of one spool and the paths in them, all relative to ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.instances = root / "instances"
        self.conflicts = root / "conflicts"
        self.quarantine = root / "quarantine"
        self.dose_reports = root / "dose_reports"
        self.incoming = root / "incoming"

    def create(self) -> None:
        """Create the folders that receiving needs; only the owner may read them."""
        own = (self.instances, self.conflicts, self.dose_reports, self.quarantine, self.incoming)
        for folder in (self.root, *own, *self.shards()):
            make_private(folder)
        sync_folder(self.instances)
        sync_folder(self.root)

    def shards(self) -> Iterator[Path]:
        """Return the 256 folders that hold the acknowledged instances."""
        return (self.instances / f"{number:02x}" for number in range(256))

    def instance(self, sop_instance_uid: str) -> Path:
        """Return the path of an acknowledged instance."""
        key = uid_key(sop_instance_uid)
        return self.instances / key[:2] / f"{key}.dcm"

    def conflict(self, sop_instance_uid: str, sha256: str) -> Path:
        """Return the path of other bytes under the UID of a stored instance; one path per content."""
        return self.conflicts / f"{uid_key(sop_instance_uid)}-{sha256[:16]}.dcm"

    def dose_report(self, sop_instance_uid: str, sha256: str) -> Path:
        """Return the path of a dose report; one path per content, for a UID may come again with more events."""
        return self.dose_reports / f"{uid_key(sop_instance_uid)}-{sha256[:16]}.dcm"

    def dose_reports_of(self, sop_instance_uid: str) -> list[Path]:
        """Return the files of a dose report, one for each content that came under its UID."""
        return sorted(self.dose_reports.glob(f"{uid_key(sop_instance_uid)}-*.dcm"))

    def new_part(self) -> Path:
        """Return an unused path for an object that is being received."""
        return self.incoming / f"{secrets.token_hex(12)}.part"

    def new_quarantine(self) -> Path:
        """Return an unused path for a refused object."""
        return self.quarantine / f"{secrets.token_hex(12)}.dcm"

    def pictures(self, series_instance_uid: str, version: int) -> Path:
        """Return the folder that holds the pictures of one scored version of a series."""
        key = uid_key(series_instance_uid)
        return self.root / "pictures" / key[:2] / key / f"v{version}"

    def heat_map_path(self, series_instance_uid: str, version: int, number: int) -> Path:
        """Return the path of the heat map of a slice, counted from 1; see `spool.rendered_images`."""
        return self.pictures(series_instance_uid, version) / heat_name(number)

    def relative(self, path: Path) -> str:
        """Return ``path`` as the registry keeps it: relative to the spool, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def absolute(self, relative: str) -> Path:
        """Return the file behind a registry path.

        Raises
        ------
        Permanent
            The path would lead out of the spool.
        """
        path = self.root / relative
        if ".." in path.parts or not path.is_relative_to(self.root):
            raise Permanent("a stored path leads out of the spool")
        return path
