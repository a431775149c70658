"""The scanners, protocol groups and quantities that results name: looked up once per batch, added where new."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.charts.naming import read_names, target_of
from dicom_qa_node.charts.strata import Stratum
from dicom_qa_node.db import chart_tables as s
from dicom_qa_node.db.log_tables import log_facets, log_rows
from dicom_qa_node.domain.results import Measurement

__all__ = ["OTHER_PROTOCOLS", "ScannerRegistry", "scanner_key"]

OTHER_PROTOCOLS = "(other protocols)"
#: A site that writes a new protocol name for each patient must not make a chart for each.
_PROTOCOLS_PER_SCANNER = 200
#: Nor one that changes its reconstruction all the time: then only the protocol counts.
_GROUPS_PER_SCANNER = 1000


def scanner_key(manufacturer: str, model: str, station: str, serial: str, institution: str) -> str:
    """Return what tells devices apart: the serial number, else station and institution."""
    place = [serial.strip()] if serial.strip() else ["", station.strip(), institution.strip()]
    return "|".join(part.upper() for part in (manufacturer.strip(), model.strip(), *place))


@dataclass(slots=True)
class _Tally:
    count: int
    last_at: dt.datetime | None
    last_score: float | None
    network: str
    newer: bool = False


class ScannerRegistry:
    """One batch's view of the scanners; new ones are written at once, counts at `flush`."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        known = connection.execute(sa.select(s.scanners)).all()
        self._ids: dict[str, int] = {row.key: row.scanner_id for row in known}
        rows = connection.execute(sa.select(s.groups)).all()
        self._groups: dict[tuple[int, str, str], int] = {
            (row.scanner_id, row.kind, row.protocol): row.group_id for row in rows
        }
        self._charted_as: dict[int, int] = {row.group_id: row.charted_as for row in rows if row.charted_as is not None}
        self._protocols: dict[int, set[str]] = {}
        for row in rows:
            self._protocols.setdefault(row.scanner_id, set()).add(row.protocol_name or row.protocol)
        self._scanner_of: dict[int, int] = {row.group_id: row.scanner_id for row in rows}
        self._network: dict[int, str] = {row.group_id: row.network for row in rows}
        self._last = {row.group_id: row.last_at for row in rows if row.total}
        self._quantities: dict[str, int] = {
            row.name: row.quantity_id for row in connection.execute(sa.select(s.quantities))
        }
        self._counters: dict[int, _Tally] = {}
        self._people = read_names(connection)

    def scanner(self, row: sa.Row[Any]) -> int:
        """Return the number of the device behind a result: by serial number, else by station and institution."""
        facts = {
            "manufacturer": row.manufacturer.strip(),
            "model": row.manufacturer_model_name.strip(),
            "station": row.station_name.strip(),
            "serial": row.device_serial_number.strip(),
            "institution": row.institution_name.strip(),
        }
        key = scanner_key(**facts)
        if key not in self._ids:
            times = {"first_at": row.scored_at, "last_at": row.scored_at}
            insert = s.scanners.insert().values(key=key, name=row.scanner, **facts, **times)
            self._ids[key] = self._number(insert)
            self._people = read_names(self._connection)
        return self._ids[key]

    def group(self, scanner_id: int, kind: str, stratum: Stratum) -> int:
        """Return the number of the group that the headers name: a scanner's series of one kind and stratum."""
        key = (scanner_id, kind, stratum.label)
        if key not in self._groups:
            stratum = self._within_limits(scanner_id, kind, stratum)
            key = (scanner_id, kind, stratum.label)
        if key not in self._groups:
            self._add_group(key, stratum)
        return self._groups[key]

    def shown(self, group_id: int) -> int:
        """Return the group whose chart shows a group: itself, unless people merged scanners or mapped protocols."""
        return self._charted_as.get(group_id, group_id)

    def _within_limits(self, scanner_id: int, kind: str, stratum: Stratum) -> Stratum:
        protocols = self._protocols.get(scanner_id, set())
        if stratum.protocol not in protocols and len(protocols) >= _PROTOCOLS_PER_SCANNER:
            return Stratum(OTHER_PROTOCOLS)
        taken = sum(owner == scanner_id for owner in self._scanner_of.values())
        return stratum if taken < _GROUPS_PER_SCANNER else Stratum(stratum.protocol)

    def _add_group(self, key: tuple[int, str, str], stratum: Stratum) -> None:
        scanner_id, kind, label = key
        none = {"network": "", "total": 0, "last_at": dt.datetime(1970, 1, 1, tzinfo=dt.UTC), "judged": False}
        parts = {
            "protocol_name": stratum.protocol,
            "kernel": stratum.kernel.value,
            "reconstruction": stratum.reconstruction.value,
            "thickness": stratum.thickness,
        }
        insert = s.groups.insert().values(scanner_id=scanner_id, kind=kind, protocol=label, **none, **parts)
        group_id = self._number(insert)
        self._groups[key], self._scanner_of[group_id], self._network[group_id] = group_id, scanner_id, ""
        self._protocols.setdefault(scanner_id, set()).add(stratum.protocol)
        row = self._connection.execute(sa.select(s.groups).where(s.groups.c.group_id == group_id)).one()
        target = target_of(self._connection, self._people, row)
        if target != group_id:
            charted = s.groups.update().where(s.groups.c.group_id == group_id).values(charted_as=target)
            self._connection.execute(charted)
            self._charted_as[group_id] = target
            self._scanner_of.setdefault(target, self._people.root(scanner_id))
            self._network.setdefault(target, "")
            other = self._connection.execute(sa.select(s.groups).where(s.groups.c.group_id == target)).one()
            self._groups[(other.scanner_id, other.kind, other.protocol)] = target

    def quantity(self, measurement: Measurement) -> int:
        """Return the number of a measured quantity."""
        name = measurement.name
        if name not in self._quantities:
            words = {"meaning": measurement.meaning, "unit": measurement.unit, "direction": measurement.direction}
            self._quantities[name] = self._number(s.quantities.insert().values(name=name, **words))
        return self._quantities[name]

    def name_of(self, scanner_id: int) -> str:
        """Return the name under which a scanner is shown."""
        return self._people.scanner(scanner_id)

    def protocol_shown(self, written: str) -> str:
        """Return what a protocol is shown as."""
        return self._people.protocol(written)

    def link_facets(self, scanners: Mapping[int, int]) -> None:
        """Note which scanner facets of the log belong to, and what people call it; ``scanners`` by result number."""
        row, facet = log_rows.c, log_facets.c
        query = sa.select(row.result_id, facet.facet_id, facet.protocol).join(
            log_facets, facet.facet_id == row.facet_id
        )
        fresh = query.where(row.result_id.in_(list(scanners)) & facet.scanner_id.is_(None))
        for found in {f.facet_id: f for f in self._connection.execute(fresh)}.values():
            number = scanners[found.result_id]
            shown = self._people.protocol(" ".join(found.protocol.split()))
            values = {
                "scanner_id": number,
                "shown_scanner": self._people.scanner(number),
                "shown_protocol": None if shown == found.protocol else shown,
            }
            same = facet.facet_id == found.facet_id
            self._connection.execute(log_facets.update().where(same).values(**values))

    def note(self, group_id: int, at: dt.datetime, score: float | None, network: str) -> None:
        """Count one more point of a group; another network than before leaves an event on the scanner's charts."""
        tally = self._counters.setdefault(group_id, _Tally(0, self._last.get(group_id), None, self._network[group_id]))
        tally.count += 1
        if tally.last_at is None or at >= tally.last_at:
            tally.last_at, tally.last_score, tally.newer = at, score, True
            if tally.network and tally.network != network:
                self._network_changed(group_id, at, tally.network, network)
            tally.network = self._network[group_id] = network

    def unnote(self, group_id: int) -> None:
        """Count one point less: a later version has taken its place."""
        tally = self._counters.setdefault(group_id, _Tally(0, self._last.get(group_id), None, self._network[group_id]))
        tally.count -= 1

    def flush(self) -> None:
        """Write the counts."""
        for group_id, tally in self._counters.items():
            same = s.groups.c.group_id == group_id
            values: dict[str, Any] = {"total": s.groups.c.total + tally.count, "judged": False}
            if tally.newer and tally.last_at is not None:
                values |= {"last_at": tally.last_at, "last_score": tally.last_score}
                self._seen(self._scanner_of[group_id], tally.last_at)
            self._connection.execute(s.groups.update().where(same).values(**values, network=tally.network))

    def _seen(self, scanner_id: int, at: dt.datetime) -> None:
        later = (s.scanners.c.scanner_id == scanner_id) & (s.scanners.c.last_at < at)
        self._connection.execute(s.scanners.update().where(later).values(last_at=at))

    def _network_changed(self, group_id: int, at: dt.datetime, old: str, new: str) -> None:
        event, scanner_id = s.events.c, self._scanner_of[group_id]
        text = f"scored by {new} from here on, before by {old}"
        known = sa.select(event.event_id).where((event.scanner_id == scanner_id) & (event.text == text))
        if self._connection.execute(known).first() is None:
            values = {"scanner_id": scanner_id, "at": at, "kind": "network", "text": text, "author": "node"}
            self._connection.execute(s.events.insert().values(**values, created_at=at, withdrawn=False))

    def _number(self, insert: sa.Insert) -> int:
        return int(self._connection.execute(insert).inserted_primary_key[0])  # type: ignore[index]
