"""Gives the registry what a crash kept from it: every file in the spool gets its row, abandoned part files go.

Runs at start, after the death of a receiver process, and on demand. It never touches what a living receiver is
working on, holds one batch in memory, and can be stopped and started again at any point.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import hashlib
import json
import logging
import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from dicom_qa_node.dicom_io.element_scanner import BrokenDataSet
from dicom_qa_node.dicom_io.instance_header import read_instance_header
from dicom_qa_node.dicom_io.part10 import Checksum, open_envelope
from dicom_qa_node.domain.dose import StoredDoseReport
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.series import Quarantined, Receipt, StoredInstance
from dicom_qa_node.dose.report_reader import read_report
from dicom_qa_node.log import log_event
from dicom_qa_node.spool.image_difference import Difference, differences
from dicom_qa_node.spool.incoming import Outcome, StoredFile, move_to_quarantine, stored_instance
from dicom_qa_node.spool.layout import SpoolLayout

__all__ = ["ReconcileRegistry", "Reconciled", "count_files", "reconcile"]

_LOGGER = logging.getLogger(__name__)
_BATCH = 200
_HASH_STEP = 1024 * 1024
# A part file is locked right after it is made; a younger one may be between the two.
_PART_AGE_S = 60.0


class ReconcileRegistry(Protocol):
    """What reconciling needs of `store.Registry`."""

    def record(self, receipts: Sequence[Receipt]) -> None:
        """Write receipts; those that are known already change nothing."""

    def known_paths(self, paths: Iterable[str]) -> set[str]:
        """Return which of these spool paths have a row."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What one run did: files looked at, rows added, part files deleted, files found damaged."""

    files: int = 0
    added: int = 0
    parts: int = 0
    damaged: int = 0


def reconcile(
    layout: SpoolLayout,
    registry: ReconcileRegistry,
    changed_since: float = 0.0,
    looked: Callable[[int], object] = lambda _: None,
) -> Reconciled:
    """Bring the registry up to the spool.

    Parameters
    ----------
    changed_since
        Look only at files that were named after this time (seconds since the epoch); 0 looks at all.
    looked
        Told how many files were looked at so far.

    Raises
    ------
    Transient
        The database is out of reach; what was done so far stands.
    """
    parts = _delete_abandoned_parts(layout)
    files = added = damaged = 0
    for batch in _batches(_files(layout, changed_since)):
        by_path = {layout.relative(path): path for path in batch}
        files += len(by_path)
        looked(files)
        missing = sorted(by_path.keys() - registry.known_paths(by_path))
        receipts = [receipt for name in missing if (receipt := _receipt(layout, by_path[name])) is not None]
        if receipts:
            registry.record(receipts)
        added += len(receipts)
        # What was refused on arrival lies in quarantine under its own name; what is damaged was moved there now.
        damaged += sum(isinstance(receipt, Quarantined) and receipt.path not in by_path for receipt in receipts)
    result = Reconciled(files, added, parts, damaged)
    log_event(_LOGGER, logging.INFO, "reconciled", files=files, added=added, parts=parts, damaged=damaged)
    return result


def count_files(layout: SpoolLayout) -> int:
    """Return how many files a run over the whole spool would look at."""
    return sum(1 for _ in _files(layout, 0.0))


def _delete_abandoned_parts(layout: SpoolLayout) -> int:
    """Delete part files without a living writer: nobody was told that they were stored."""
    deleted = 0
    for path in layout.incoming.glob("*.part"):
        try:
            if time.time() - path.stat().st_mtime < _PART_AGE_S and not _settled(path):
                continue
            # Open for writing: over NFS an exclusive lock needs that.
            with path.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                deleted += 1
        except (BlockingIOError, FileNotFoundError):
            continue
    return deleted


def _settled(path: Path) -> bool:
    """Return whether a part file has its envelope: its writer locked it before writing that."""
    return path.stat().st_size > 0


def _files(layout: SpoolLayout, changed_since: float) -> Iterator[Path]:
    for folder in (*layout.shards(), layout.conflicts, layout.dose_reports, layout.quarantine):
        # A folder's own time changes with each name in it, so most folders need no second look.
        if folder.stat().st_mtime < changed_since:
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".dcm") and entry.stat().st_ctime >= changed_since:
                    yield Path(entry.path)


def _batches(paths: Iterator[Path]) -> Iterator[list[Path]]:
    while batch := list(islice(paths, _BATCH)):
        yield batch


def _receipt(layout: SpoolLayout, path: Path) -> StoredInstance | StoredDoseReport | Quarantined | None:
    """Return the receipt that the lost process would have reported; None if the file went meanwhile."""
    try:
        if path.parent == layout.quarantine:
            return _quarantined(layout, path)
        if path.parent == layout.dose_reports:
            return _dose_report(layout, path)
        return _stored(layout, path)
    except FileNotFoundError:
        return None
    except (Permanent, ValueError) as error:
        return move_to_quarantine(layout, path, f"damaged in the spool: {error}")


def _stored(layout: SpoolLayout, path: Path) -> StoredInstance:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        envelope = open_envelope(data)
        _check_content(data, envelope.data_start, envelope.checksum)
        assert envelope.checksum is not None
        facts = read_instance_header(data, envelope.data_start, envelope.origin.transfer_syntax_uid)
        outcome = Outcome.CONFLICT if path.parent == layout.conflicts else Outcome.NEW
        stored = layout.instance(envelope.origin.sop_instance_uid)
        apart = outcome is Outcome.CONFLICT and stored.is_file()
        differs = differences(stored, path) if apart else frozenset[Difference]()
        kept = StoredFile(outcome, layout.relative(path), envelope.checksum, differs)
        return stored_instance(kept, envelope.origin, facts)


def _dose_report(layout: SpoolLayout, path: Path) -> StoredDoseReport:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        envelope = open_envelope(data)
        _check_content(data, envelope.data_start, envelope.checksum)
        checksum = envelope.checksum
        assert checksum is not None
    return StoredDoseReport(
        path=layout.relative(path),
        sha256=checksum.sha256,
        size_bytes=checksum.size_bytes,
        received_at=checksum.received_at,
        calling_ae=envelope.origin.calling_ae,
        report=read_report(path),
    )


def _check_content(data: mmap.mmap, start: int, checksum: Checksum | None) -> None:
    if checksum is None or len(data) - start != checksum.size_bytes:
        raise BrokenDataSet("the file is not complete")
    digest = hashlib.sha256()
    for position in range(start, len(data), _HASH_STEP):
        digest.update(data[position : position + _HASH_STEP])
    if digest.hexdigest() != checksum.sha256:
        raise BrokenDataSet("the content does not have its checksum")


def _quarantined(layout: SpoolLayout, path: Path) -> Quarantined:
    notice = json.loads(path.with_suffix(".json").read_bytes())
    at = dt.datetime.fromisoformat(notice["at"])
    # Earlier versions wrote what the peer called the object as it was, and PostgreSQL takes no NUL.
    uid = notice["sop_instance_uid"].replace("\0", "\N{REPLACEMENT CHARACTER}")
    return Quarantined(layout.relative(path), notice["reason"], notice["calling_ae"], uid, at)
