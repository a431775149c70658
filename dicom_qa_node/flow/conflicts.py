"""Images that came again under the same UIDs with other pixels or another identity, and what an operator decides.

The spool keeps both; the one at the place of the instance is scored. `Conflicts.take_newer` exchanges the files first
and the rows after them, so that a registry made anew from the spool knows the choice; broken off, it is done again.
"""

from __future__ import annotations

import datetime as dt
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.tables import log_event
from dicom_qa_node.dicom_io.durable import sync_folder
from dicom_qa_node.dicom_io.part10 import open_envelope
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.series import SeriesHeader
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.queue import cancel_jobs, lock_series
from dicom_qa_node.flow.registry import requeue
from dicom_qa_node.spool.layout import SpoolLayout

__all__ = ["Conflicts", "OpenConflict"]

_BATCH = 500


@dataclass(frozen=True, slots=True)
class OpenConflict:
    """A series with images that came again and differ; ``differs`` says in what, such as ("patient",)."""

    series_instance_uid: str
    images: int
    differs: tuple[str, ...]

    def __str__(self) -> str:
        images = f"{self.images} image{'s' if self.images > 1 else ''}"
        return f"{images} of series {self.series_instance_uid} came again with other {' and '.join(self.differs)}"


@dataclass(frozen=True, slots=True)
class _Exchange:
    """The row that is scored now, None where its image is gone, and the newer one that takes its place."""

    stored: sa.Row[Any] | None
    newer: sa.Row[Any]


class Conflicts:
    """Finds and settles conflicts; ``clock`` returns the current UTC time. See the module's docstring."""

    def __init__(self, database: Database, clock: Callable[[], dt.datetime] | None = None) -> None:
        self._db = database
        self._clock = clock or database.now

    def open(self, limit: int = 10) -> list[OpenConflict]:
        """Return series whose conflicts nobody has settled."""
        query = sa.select(t.open_conflicts).order_by(t.open_conflicts.c.series_instance_uid).limit(limit)
        with self._db.read() as connection:
            return [
                OpenConflict(row.series_instance_uid, row.images, _differs(connection, row.series_instance_uid))
                for row in connection.execute(query).all()
            ]

    def count(self) -> int:
        """Return how many series have conflicts that nobody has settled."""
        with self._db.read() as connection:
            query = sa.select(sa.func.count()).select_from(t.open_conflicts)
            return int(connection.execute(query).scalar_one())

    def of(self, series_instance_uid: str) -> OpenConflict | None:
        """Return the unsettled conflicts of a series, None if it has none."""
        opened = t.open_conflicts.c
        query = sa.select(opened.images).where(opened.series_instance_uid == series_instance_uid)
        with self._db.read() as connection:
            images = connection.execute(query).scalar_one_or_none()
            if not images:
                return None
            return OpenConflict(series_instance_uid, images, _differs(connection, series_instance_uid))

    def keep_stored(self, series_instance_uid: str, *, actor: str) -> bool:
        """Settle the conflicts of a series for the images that are scored; the others stay in the spool."""
        now = self._clock()
        with self._db.write() as connection:
            row = lock_series(connection, series_instance_uid)
            if row is None or not _settled(connection, series_instance_uid):
                return False
            reason = "the images that came first were kept"
            log_event(connection, series_instance_uid, row.version, row.state, row.state, reason, actor, now)
            return True

    def take_newer(self, series_instance_uid: str, layout: SpoolLayout, *, actor: str) -> bool:
        """Score the newest image under each UID from now on: the series is queued as a new version.

        Patient, study and equipment of the series are those of the newest image; the report of the new version
        replaces the one before.

        Raises
        ------
        Permanent
            A newer image is no longer in the spool.
        """
        with self._db.read() as connection:
            exchanges = _exchanges(connection, series_instance_uid)
        if not exchanges:
            return False
        _exchange_files(exchanges, layout)
        newest = max((item.newer for item in exchanges), key=lambda row: row.received_at)
        facts = _facts_of(layout.instance(newest.sop_instance_uid))
        now = self._clock()
        with self._db.write() as connection:
            row = lock_series(connection, series_instance_uid)
            if row is None:
                return False
            for item in exchanges:
                _exchange_rows(connection, item, layout)
            named = {name: value for name, value in asdict(facts).items() if name != "series_instance_uid"}
            same = t.series.c.series_instance_uid == series_instance_uid
            connection.execute(t.series.update().where(same).values(**named))
            _settled(connection, series_instance_uid)
            reason = f"{len(exchanges)} newer images taken"
            if row.state == SeriesState.RECEIVING:
                log_event(connection, series_instance_uid, row.version, row.state, row.state, reason, actor, now)
                return True
            cancel_jobs(connection, series_instance_uid)
            return requeue(connection, series_instance_uid, reason, actor, now)


def _differs(connection: sa.Connection, uid: str) -> tuple[str, ...]:
    mine = (t.instances.c.series_instance_uid == uid) & t.instances.c.conflict
    found = connection.execute(sa.select(t.instances.c.differs).where(mine).distinct()).scalars()
    words = sorted({word for text in found for word in text.split(", ") if word})
    return tuple(words) or ("content",)


def _settled(connection: sa.Connection, uid: str) -> bool:
    done = t.open_conflicts.delete().where(t.open_conflicts.c.series_instance_uid == uid)
    return bool(connection.execute(done).rowcount)


def _exchanges(connection: sa.Connection, uid: str) -> list[_Exchange]:
    rows = t.instances.c
    conflicting = sa.select(t.instances).where(rows.series_instance_uid == uid, rows.conflict)
    newest: dict[str, sa.Row[Any]] = {}
    for row in connection.execute(conflicting.order_by(rows.received_at, rows.instance_id)):
        newest[row.sop_instance_uid] = row
    stored: dict[str, sa.Row[Any]] = {}
    uids = sorted(newest)
    for start in range(0, len(uids), _BATCH):
        query = sa.select(t.instances).where(rows.sop_instance_uid.in_(uids[start : start + _BATCH]), ~rows.conflict)
        stored |= {row.sop_instance_uid: row for row in connection.execute(query)}
    pairs = [_Exchange(stored.get(sop), row) for sop, row in sorted(newest.items())]
    return [item for item in pairs if item.stored is None or item.newer.received_at >= item.stored.received_at]


def _exchange_files(exchanges: Sequence[_Exchange], layout: SpoolLayout) -> None:
    """Put the newer files in the places of the stored ones, and those beside the conflicting ones.

    At each moment every content has a name: the stored file gets its second name before it loses its first.
    """
    moves: list[tuple[Path, Path]] = []
    for item in exchanges:
        place, newer = layout.instance(item.newer.sop_instance_uid), layout.absolute(item.newer.path)
        if not newer.is_file():
            if _holds(place, item.newer.sha256):
                continue
            raise Permanent(f"the newer image {item.newer.sop_instance_uid} is no longer in the spool; send it again")
        if item.stored is not None and place.is_file():
            beside = layout.conflict(item.stored.sop_instance_uid, item.stored.sha256)
            if not beside.exists():
                os.link(place, beside)
        moves.append((newer, place))
    sync_folder(layout.conflicts)
    for newer, place in moves:
        newer.rename(place)
    for folder in {layout.conflicts, *(place.parent for _, place in moves)}:
        sync_folder(folder)


def _holds(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        checksum = open_envelope(file.read(4096)).checksum
    return checksum is not None and checksum.sha256 == sha256


def _exchange_rows(connection: sa.Connection, item: _Exchange, layout: SpoolLayout) -> None:
    rows = t.instances.c
    place = layout.relative(layout.instance(item.newer.sop_instance_uid))
    stored, newer = item.stored, item.newer
    if stored is not None:
        beside = layout.relative(layout.conflict(stored.sop_instance_uid, stored.sha256))
        # Reconciling may have met the second name of a file whose exchange was broken off.
        connection.execute(t.instances.delete().where(rows.path == beside, rows.instance_id != stored.instance_id))
        aside = {"path": beside, "conflict": True, "differs": newer.differs}
        connection.execute(t.instances.update().where(rows.instance_id == stored.instance_id).values(**aside))
    taken = {"path": place, "conflict": False, "differs": ""}
    connection.execute(t.instances.update().where(rows.instance_id == newer.instance_id).values(**taken))
    uids = {newer.series_instance_uid, *([stored.series_instance_uid] if stored is not None else [])}
    for uid in uids:
        _count_again(connection, uid)


def _count_again(connection: sa.Connection, uid: str) -> None:
    mine = t.instances.c.series_instance_uid == uid
    query = sa.select(t.instances.c.conflict, sa.func.count()).where(mine).group_by(t.instances.c.conflict)
    counted = {bool(conflict): int(count) for conflict, count in connection.execute(query)}
    whole, apart = counted.get(False, 0), counted.get(True, 0)
    update = t.series.update().where(t.series.c.series_instance_uid == uid)
    connection.execute(update.values(received=whole, conflicts=apart, kept=whole + apart))


def _facts_of(path: Path) -> SeriesHeader:
    # pydicom is loaded by the command that takes images, and not by `health`.
    from dicom_qa_node.dicom_io.instance_header import read_instance_header

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        envelope = open_envelope(data)
        return read_instance_header(data, envelope.data_start, envelope.origin.transfer_syntax_uid).series()
