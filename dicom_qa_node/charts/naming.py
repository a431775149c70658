"""Names that people give to scanners and protocols, and scanners that are shown as one.

A change writes a few rows: names, where groups are charted, and the words of the log's facets. The points of a group
follow in small transactions of the role ``schedule`` (`Naming.move`). What the headers wrote is kept beside each point,
so that every change can be taken back.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.charts.arrival_order import monday_of
from dicom_qa_node.charts.strata import Stratum
from dicom_qa_node.db import chart_tables as s
from dicom_qa_node.db.engine import Database, insert_ignore
from dicom_qa_node.db.log_tables import log_facets
from dicom_qa_node.domain.acquisition_parameters import Reconstruction, Sharpness
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.scanner_names import derived_name, names_nothing

__all__ = ["Names", "Naming", "ProtocolName", "ScannerName", "read_names", "target_of"]

_LONGEST = 100
_AT_ONCE = 5000


@dataclass(frozen=True, slots=True)
class ScannerName:
    """What people decided about a scanner; an empty ``name`` is the derived one."""

    scanner_id: int
    name: str
    part_of: int | None
    author: str
    changed_at: dt.datetime


@dataclass(frozen=True, slots=True)
class ProtocolName:
    """A protocol name of the headers and what it is shown as."""

    written: str
    shown: str
    author: str
    changed_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Names:
    """All names at one moment: by scanner, the scanner it is shown as and that one's name; by written protocol."""

    shown_as: Mapping[int, int]
    scanners: Mapping[int, str]
    protocols: Mapping[str, str]

    def scanner(self, scanner_id: int) -> str:
        """Return the name under which a scanner is shown."""
        return self.scanners[self.root(scanner_id)]

    def root(self, scanner_id: int) -> int:
        """Return the scanner it is shown as."""
        return self.shown_as.get(scanner_id, scanner_id)

    def protocol(self, written: str) -> str:
        """Return what a protocol is shown as."""
        return self.protocols.get(written, written)


def read_names(connection: sa.Connection) -> Names:
    """Return the names that hold now."""
    chosen = {row.scanner_id: row for row in connection.execute(sa.select(s.scanner_names))}
    scanners = {}
    for row in connection.execute(sa.select(s.scanners)):
        name = chosen[row.scanner_id].name if row.scanner_id in chosen else ""
        if not name and names_nothing(row.name):
            name = derived_name(row.station, row.manufacturer, row.model, row.serial)
        scanners[row.scanner_id] = name or row.name
    protocols = {row.written: row.shown for row in connection.execute(sa.select(s.protocol_names))}
    shown_as = {number: row.part_of for number, row in chosen.items() if row.part_of is not None}
    return Names(shown_as, scanners, protocols)


class Naming:
    """Changes names; ``clock`` returns the current UTC time."""

    def __init__(self, database: Database, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._db, self._clock = database, clock

    def scanners(self) -> dict[int, ScannerName]:
        """Return what people decided, by scanner."""
        with self._db.read() as connection:
            rows = connection.execute(sa.select(s.scanner_names)).all()
        return {row.scanner_id: ScannerName(**row._mapping) for row in rows}

    def protocols(self) -> list[ProtocolName]:
        """Return the protocol names that are shown as others, by what they are shown as."""
        query = sa.select(s.protocol_names).order_by(s.protocol_names.c.shown, s.protocol_names.c.written)
        with self._db.read() as connection:
            return [ProtocolName(**row._mapping) for row in connection.execute(query)]

    def written_protocols(self) -> list[str]:
        """Return the protocol names that headers wrote, by name."""
        group = s.groups.c
        name = sa.func.coalesce(group.protocol_name, group.protocol)
        with self._db.read() as connection:
            return sorted(connection.execute(sa.select(name).distinct()).scalars())

    def name_scanner(self, scanner_id: int, name: str, *, author: str) -> str:
        """Give a scanner a name; "" takes the derived one again. Returns the name that holds now.

        Raises
        ------
        Permanent
            There is no such scanner, or another has the name.
        """
        words = _words(name)
        with self._db.write() as connection:
            names = read_names(connection)
            _known(names, scanner_id)
            others = {n.casefold() for number, n in names.scanners.items() if names.root(number) != scanner_id}
            if words and words.casefold() in others:
                raise Permanent(f"another scanner is called {words}; to show both as one, merge them")
            self._keep(connection, scanner_id, author, name=words)
            after = read_names(connection)
            _rename_facets(connection, after, {n for n in names.scanners if after.root(n) == scanner_id})
            return after.scanner(scanner_id)

    def merge(self, scanner_id: int, into: int | None, *, author: str) -> None:
        """Show a scanner as part of another, or (None) on its own again.

        Raises
        ------
        Permanent
            There is no such scanner, both are the same, or one of them is part of a third.
        """
        with self._db.write() as connection:
            names = read_names(connection)
            _known(names, scanner_id)
            if into is not None:
                _known(names, into)
                if into == scanner_id:
                    raise Permanent("a scanner cannot be part of itself")
                if into in names.shown_as:
                    raise Permanent(f"{names.scanners[into]} is part of {names.scanner(into)}; choose that one")
                if scanner_id in names.shown_as.values():
                    raise Permanent(f"others are part of {names.scanners[scanner_id]}; take them apart first")
            self._keep(connection, scanner_id, author, part_of=into)
            after = read_names(connection)
            _rename_facets(connection, after, {scanner_id})
            _place(connection, after, s.groups.c.scanner_id == scanner_id)

    def map_protocol(self, written: str, shown: str, *, author: str) -> None:
        """Show a protocol under another name; the same name, or "", takes it back.

        Raises
        ------
        Permanent
            A name is empty or too long, or the other one is itself shown as a third.
        """
        before, after_name = _words(written, longest=200), _words(shown, longest=200)
        if not before:
            raise Permanent("name the protocol as the scanner writes it")
        with self._db.write() as connection:
            names = read_names(connection)
            if after_name in names.protocols and after_name != before:
                raise Permanent(f"{after_name} is itself shown as {names.protocol(after_name)}")
            if after_name and after_name != before and before in names.protocols.values():
                raise Permanent(f"other protocols are shown as {before}; change them first")
            same = s.protocol_names.c.written == before
            connection.execute(s.protocol_names.delete().where(same))
            if after_name and after_name != before:
                values = {"written": before, "shown": after_name, "author": author, "changed_at": self._clock()}
                connection.execute(s.protocol_names.insert().values(**values))
            after = read_names(connection)
            facets = log_facets.update().where(log_facets.c.protocol == before)
            connection.execute(facets.values(shown_protocol=after.protocols.get(before)))
            name = sa.func.coalesce(s.groups.c.protocol_name, s.groups.c.protocol)
            _place(connection, after, name == before)

    def move(self, limit: int = _AT_ONCE) -> int:
        """Bring points to the chart that shows them, some thousand in one transaction; return how many moved."""
        with self._db.read() as connection:
            waiting = sa.select(s.groups.c.group_id, s.groups.c.charted_as).where(s.groups.c.moving)
            row = connection.execute(waiting.order_by(s.groups.c.group_id).limit(1)).first()
        if row is None:
            return 0
        with self._db.write() as connection:
            return _move(connection, row.group_id, row.charted_as or row.group_id, limit)

    def _keep(self, connection: sa.Connection, scanner_id: int, author: str, **values: Any) -> None:
        same = s.scanner_names.c.scanner_id == scanner_id
        stamp = {"author": author, "changed_at": self._clock()}
        if not connection.execute(s.scanner_names.update().where(same).values(**values, **stamp)).rowcount:
            fresh = {"scanner_id": scanner_id, "name": "", "part_of": None} | values | stamp
            connection.execute(s.scanner_names.insert().values(**fresh))


def _words(name: str, longest: int = _LONGEST) -> str:
    words = " ".join(name.split())
    if len(words) > longest or any(not letter.isprintable() for letter in words):
        raise Permanent(f"a name has at most {longest} printable characters")
    return words


def _known(names: Names, scanner_id: int) -> None:
    if scanner_id not in names.scanners:
        raise Permanent(f"there is no scanner {scanner_id}")


def _rename_facets(connection: sa.Connection, names: Names, scanners: set[int]) -> None:
    for number in scanners:
        same = log_facets.c.scanner_id == number
        connection.execute(log_facets.update().where(same).values(shown_scanner=names.scanner(number)))


def _place(connection: sa.Connection, names: Names, wanted: sa.ColumnElement[bool]) -> None:
    """Note on which chart each group is shown; its points follow."""
    for group in connection.execute(sa.select(s.groups).where(wanted)).all():
        target = target_of(connection, names, group)
        if target != (group.charted_as or group.group_id):
            same = s.groups.c.group_id == group.group_id
            placed = None if target == group.group_id else target
            connection.execute(s.groups.update().where(same).values(charted_as=placed, moving=True))


def target_of(connection: sa.Connection, names: Names, group: Any) -> int:
    """Return the group on whose chart a group's series belong, made where there is none."""
    scanner_id = names.root(group.scanner_id)
    written = group.protocol_name or group.protocol
    shown = names.protocol(written)
    if scanner_id == group.scanner_id and shown == written:
        return int(group.group_id)
    stratum = Stratum(
        shown,
        Sharpness(group.kernel or "unknown"),
        Reconstruction(group.reconstruction or "unknown"),
        group.thickness or "",
    )
    same = (s.groups.c.scanner_id == scanner_id) & (s.groups.c.kind == group.kind)
    found = sa.select(s.groups.c.group_id).where(same & (s.groups.c.protocol == stratum.label))
    number = connection.execute(found).scalar_one_or_none()
    if number is None:
        none = {"network": group.network, "total": 0, "last_at": group.last_at, "judged": True}
        parts = {
            "protocol_name": shown,
            "kernel": stratum.kernel.value,
            "reconstruction": stratum.reconstruction.value,
            "thickness": stratum.thickness,
        }
        insert = s.groups.insert().values(
            scanner_id=scanner_id, kind=group.kind, protocol=stratum.label, **none, **parts
        )
        number = connection.execute(insert).inserted_primary_key[0]  # type: ignore[index]
    return int(number)


def _move(connection: sa.Connection, source: int, target: int, limit: int) -> int:
    point, moved = s.points.c, 0
    for elsewhere in (point.group_id < target, point.group_id > target):
        query = sa.select(point.result_id, point.group_id, point.acquired_at).where(
            (point.source_group_id == source) & elsewhere
        )
        rows = connection.execute(query.limit(limit - moved)).all() if moved < limit else []
        if rows:
            moved += len(rows)
            chosen = point.result_id.in_([row.result_id for row in rows])
            connection.execute(s.points.update().where(chosen).values(group_id=target))
            mondays = {monday_of(row.acquired_at) for row in rows}
            groups = {target, *(row.group_id for row in rows)}
            stale = [{"group_id": group, "monday": monday} for group in groups for monday in mondays]
            insert_ignore(connection, s.stale_weeks, stale)
            _recount(connection, rows, target)
    if moved < limit:
        same = s.groups.c.group_id == source
        connection.execute(s.groups.update().where(same).values(moving=None))
    return moved


def _recount(connection: sa.Connection, rows: Sequence[Any], target: int) -> None:
    for group_id in {row.group_id for row in rows}:
        count = sum(row.group_id == group_id for row in rows)
        left = s.groups.c.group_id == group_id
        gone = {"total": s.groups.c.total - count, "judged": False}
        connection.execute(s.groups.update().where(left).values(**gone))
    point = s.points.c
    last = sa.select(point.at, point.score).where(point.group_id == target)
    latest = connection.execute(last.order_by(point.at.desc(), point.result_id.desc()).limit(1)).one()
    came = {"total": s.groups.c.total + len(rows), "judged": False}
    newest = {"last_at": latest.at, "last_score": latest.score}
    connection.execute(s.groups.update().where(s.groups.c.group_id == target).values(**came, **newest))
