"""What an address means by scanner, protocol group, quantity and number of points, for pages and API alike."""

from __future__ import annotations

from dataclasses import dataclass

from dicom_qa_node.store import Scanners
from dicom_qa_node.store.scanners import Group, Scanner
from dicom_qa_node.web.charting import rules_of
from dicom_qa_node.web.site import Site

__all__ = ["Choice", "choose"]

_MAX_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Choice:
    """What an address asks for: scanner, group, quantity, how many points."""

    scanner: Scanner
    group: Group
    groups: list[Group]
    quantity: str
    points: int

    @property
    def query(self) -> str:
        """The same choice as a query."""
        return f"group={self.group.group_id}&quantity={self.quantity}&points={self.points}"


def choose(site: Site, scanner_id: int, group_id: int | None, quantity: str, points: int | None) -> Choice | None:
    """Find what an address means; None if there is no such scanner or group. Reads the database."""
    charts = site.config.charts
    scanners = Scanners(site.database, rules_of(charts), site.clock)
    scanner = scanners.scanner(min(scanner_id, _MAX_ID))
    groups = [] if scanner is None else scanners.groups(scanner.scanner_id)
    group = next((item for item in groups if group_id in (None, item.group_id)), None)
    if scanner is None or group is None:
        return None
    return Choice(scanner, group, groups, quantity, min(points or charts.points, 5000))
