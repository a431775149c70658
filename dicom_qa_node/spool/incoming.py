"""Writes received objects to the spool so that what was acknowledged outlives any crash.

The order is fixed: temporary file, write, fsync, a name in its final folder, fsync of that folder. Only then may
a caller acknowledge. The final name is given by a hard link, which fails where a rename would overwrite.
"""

from __future__ import annotations

import datetime as dt
import errno
import fcntl
import hashlib
import json
import logging
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import ParamSpec, TypeVar

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from dicom_qa_node.dicom_io.durable import sync_folder, write_new_file
from dicom_qa_node.dicom_io.element_scanner import BrokenDataSet, UnknownVr, encoding_of, scan
from dicom_qa_node.dicom_io.instance_header import InstanceHeader, read_instance_header
from dicom_qa_node.dicom_io.part10 import Checksum, Origin, checksum_offset, compose, open_envelope
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Transient
from dicom_qa_node.domain.series import Quarantined, SeriesHeader, StoredInstance
from dicom_qa_node.log import log_event
from dicom_qa_node.spool.disk_space import SpoolFull
from dicom_qa_node.spool.image_difference import Difference, differences
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.verification import StoredFileChanged, verify

__all__ = [
    "IncomingObject",
    "Outcome",
    "SpoolWriter",
    "StoredFile",
    "move_to_quarantine",
    "stored_instance",
]

P = ParamSpec("P")
R = TypeVar("R")

_LOGGER = logging.getLogger(__name__)
_LONGEST_UID = 64
_HASH_STEP = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Outcome(Enum):
    """What became of an object that was kept."""

    NEW = "new"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A durable object: where it lies (relative to the spool) and what its seal says.

    ``differs`` says in what a conflicting object differs from the one under its UID.
    """

    outcome: Outcome
    path: str
    checksum: Checksum
    differs: frozenset[Difference] = frozenset()


class SpoolWriter:
    """Opens incoming objects in one spool."""

    def __init__(self, layout: SpoolLayout, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self.layout = layout
        self.clock = clock

    def begin(self, origin: Origin) -> IncomingObject:
        """Start an object; it is nothing until it is kept or put in quarantine.

        Raises
        ------
        SpoolFull
            No file can be created for it.
        """
        return IncomingObject(self, origin)


class IncomingObject:
    """One object on its way into the spool. Not safe for use from several threads at once."""

    def __init__(self, writer: SpoolWriter, origin: Origin) -> None:
        self._layout = writer.layout
        self._clock = writer.clock
        self._origin = origin
        self._hash = hashlib.sha256()
        self._size = 0
        self._part = self._layout.new_part()
        envelope = compose(origin)
        self._data_start = len(envelope)
        self._descriptor = _guarded(os.open, self._part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        # The lock tells a reconciling process that this file still has a living writer.
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            self._write_all(envelope)
        except SpoolFull:
            self.discard()
            raise

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes of the data set.

        Raises
        ------
        SpoolFull
            The disk is full; `discard` the object.
        """
        self._hash.update(data)
        self._size += len(data)
        self._write_all(data)

    def facts(self) -> InstanceHeader:
        """Read what the data set says about itself, from the file, whatever its size.

        An element under a VR that PS3.5 does not know gets one that fits its length field, and no other byte changes:
        UN, or that of the dictionary, so that every reader of the file finds the elements behind it.

        Raises
        ------
        BrokenDataSet
            It cannot be read in its transfer syntax.
        InvalidUid
            One of its identifying UIDs is not a UID.
        """
        if not self._size:
            raise BrokenDataSet("the data set is empty")
        with mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ) as data:
            facts = read_instance_header(data, self._data_start, self._origin.transfer_syntax_uid)
            if facts.unknown_vrs:
                self._replace_vrs(facts.unknown_vrs, data)
            return facts

    def _replace_vrs(self, unknown: Sequence[UnknownVr], data: mmap.mmap) -> None:
        for item in unknown:
            _guarded(os.pwrite, self._descriptor, _known_vr(item), item.offset)
        self._hash = hashlib.sha256()
        for start in range(self._data_start, len(data), _HASH_STEP):
            self._hash.update(data[start : start + _HASH_STEP])

    def keep(self) -> StoredFile:
        """Make the object durable under its SOP Instance UID; on return it may be acknowledged.

        What is already stored is stored once, also in another encoding; other pixels or another identity under a
        stored UID are kept apart.

        Raises
        ------
        SpoolFull
            The disk is full; nothing was kept.
        """
        checksum = self._checksum()
        stored = self._layout.instance(self._origin.sop_instance_uid)
        if self._publish(stored):
            return StoredFile(Outcome.NEW, self._layout.relative(stored), checksum)
        if _same_content(stored, checksum):
            return self._healed(stored, checksum)
        apart = self._layout.conflict(self._origin.sop_instance_uid, checksum.sha256)
        if _same_content(apart, checksum):
            return self._duplicate_of(apart, checksum)
        differs = differences(stored, self._part)
        if not differs:
            return self._duplicate_of(stored, checksum)
        if self._publish(apart):
            return StoredFile(Outcome.CONFLICT, self._layout.relative(apart), checksum, differs)
        if _same_content(apart, checksum):
            return self._duplicate_of(apart, checksum)
        raise Transient("two different contents share one name in the conflicts folder")

    def keep_dose_report(self) -> StoredFile:
        """Make a dose report durable; on return it may be acknowledged. Each content under its UID is kept.

        Raises
        ------
        SpoolFull
            The disk is full; nothing was kept.
        """
        checksum = self._checksum()
        stored = self._layout.dose_report(self._origin.sop_instance_uid, checksum.sha256)
        if self._publish(stored):
            return StoredFile(Outcome.NEW, self._layout.relative(stored), checksum)
        if _same_content(stored, checksum):
            return self._healed(stored, checksum)
        raise Transient("two different dose reports share one name in the spool")

    def _duplicate_of(self, stored: Path, checksum: Checksum) -> StoredFile:
        self.discard()
        # The first writer may not have synced its name yet, and this answer promises durability too.
        _guarded(sync_folder, stored.parent)
        return StoredFile(Outcome.DUPLICATE, self._layout.relative(stored), checksum)

    def _healed(self, stored: Path, seal: Checksum) -> StoredFile:
        """Put this object in the place of the same one if that was damaged on the disk since it was stored."""
        try:
            verify(stored, self._layout.relative(stored))
        except (StoredFileChanged, OSError):
            _guarded(os.rename, self._part, stored)
            _guarded(sync_folder, stored.parent)
            self._close()
            log_event(_LOGGER, logging.WARNING, "stored_file_healed", path=self._layout.relative(stored))
            return StoredFile(Outcome.DUPLICATE, self._layout.relative(stored), seal)
        return self._duplicate_of(stored, seal)

    def check_structure(self) -> None:
        """Walk over the elements of a data set without pixel data.

        Raises
        ------
        BrokenDataSet
            It cannot be walked in its transfer syntax.
        """
        if not self._size:
            raise BrokenDataSet("the data set is empty")
        with mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ) as data:
            scan(data, self._data_start, encoding_of(self._origin.transfer_syntax_uid), ())

    @property
    def path(self) -> Path:
        """The file while it is being received."""
        return self._part

    @property
    def size_bytes(self) -> int:
        """The size of the data set so far."""
        return self._size

    def quarantine(self, reason: str, keep_bytes: int | None = None) -> Quarantined:
        """Make a refused object durable beside a JSON file that names the reason and the sender.

        ``keep_bytes`` cuts its data set to so many bytes, which the reason then says.
        """
        checksum = self._checksum()
        if keep_bytes is not None and keep_bytes < self._size:
            os.ftruncate(self._descriptor, self._data_start + keep_bytes)
            reason = f"{reason} (the first {keep_bytes} of {self._size} bytes are kept)"
        target = self._layout.new_quarantine()
        held = Quarantined(
            path=self._layout.relative(target),
            reason=reason,
            calling_ae=self._origin.calling_ae,
            sop_instance_uid=self._origin.sop_instance_uid[:_LONGEST_UID],
            at=checksum.received_at,
        )
        _write_notice(target, held)
        self._publish(target)
        return held

    def discard(self) -> None:
        """Forget the object: its transfer broke off, or it is stored already."""
        if self._descriptor >= 0:
            self._part.unlink(missing_ok=True)
            self._close()

    def _checksum(self) -> Checksum:
        checksum = Checksum(self._origin.association_id, self._clock(), self._hash.hexdigest(), self._size)
        _guarded(os.pwrite, self._descriptor, checksum.encode(), checksum_offset(self._data_start))
        _guarded(os.fsync, self._descriptor)
        return checksum

    def _publish(self, target: Path) -> bool:
        """Give the synced file its final, durable name; False if that name is taken."""
        try:
            _guarded(os.link, self._part, target)
        except FileExistsError:
            return False
        self._part.unlink()
        _guarded(sync_folder, target.parent)
        self._close()
        return True

    def _write_all(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[_guarded(os.write, self._descriptor, view) :]

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1


def stored_instance(
    kept: StoredFile, origin: Origin, facts: InstanceHeader, series: SeriesHeader | None = None
) -> StoredInstance:
    """Return the registry's record of a kept object; ``series`` saves decoding the series' facts again."""
    return StoredInstance(
        sop_instance_uid=origin.sop_instance_uid,
        sop_class_uid=origin.sop_class_uid,
        transfer_syntax_uid=origin.transfer_syntax_uid,
        path=kept.path,
        sha256=kept.checksum.sha256,
        size_bytes=kept.checksum.size_bytes,
        received_at=kept.checksum.received_at,
        calling_ae=origin.calling_ae,
        association_id=kept.checksum.association_id,
        series=series or facts.series(),
        instance_number=facts.instance_number,
        number_of_frames=facts.number_of_frames,
        expected=facts.expected,
        expected_group=facts.expected_group,
        conflict=kept.outcome is Outcome.CONFLICT,
        differs=", ".join(sorted(kept.differs)),
        remark=facts.remark,
    )


def _known_vr(item: UnknownVr) -> bytes:
    """Return a VR with the same form of length field (PS3.5 7.1.2): UN, or a short one, by the dictionary if it can."""
    if item.long_form:
        return b"UN"
    vr = dictionary_VR(item.tag) if dictionary_has_tag(item.tag) else ""
    return vr.encode() if len(vr) == 2 and vr not in EXPLICIT_VR_LENGTH_32 else b"ST"


def move_to_quarantine(layout: SpoolLayout, path: Path, reason: str, at: dt.datetime | None = None) -> Quarantined:
    """Take a stored file that turned out damaged out of the way; it is never deleted."""
    target = layout.new_quarantine()
    held = Quarantined(layout.relative(target), reason, "", "", at or utc_now())
    _write_notice(target, held)
    path.rename(target)
    sync_folder(target.parent)
    sync_folder(path.parent)
    return held


def _write_notice(target: Path, held: Quarantined) -> None:
    notice = asdict(held) | {"at": held.at.isoformat()}
    _guarded(write_new_file, target.with_suffix(".json"), json.dumps(notice, indent=1).encode())


def _same_content(path: Path, checksum: Checksum) -> bool:
    try:
        with path.open("rb") as file:
            there = open_envelope(file.read(4096)).checksum
    except (OSError, BrokenDataSet):
        return False
    return there is not None and (there.sha256, there.size_bytes) == (checksum.sha256, checksum.size_bytes)


def _guarded(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    try:
        return call(*args, **kwargs)
    except OSError as error:
        if error.errno in _FULL:
            raise SpoolFull("the spool has no space left") from error
        raise
