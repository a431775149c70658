"""Write the tables of docs/measurements.md from the definitions of measurements, findings and limits.

``python -m dicom_qa_node.score.physics.reference_tables docs/measurements.md`` renews the tables of that file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from dicom_qa_node.config.thresholds import Thresholds
from dicom_qa_node.score.physics.ct_quantities import CT_QUANTITIES
from dicom_qa_node.score.physics.geometry_checks import GEOMETRY_QUANTITIES
from dicom_qa_node.score.physics.pet_quantities import PET_QUANTITIES
from dicom_qa_node.score.physics.quantities import Quantity, Register

__all__ = ["TABLES", "with_tables"]

_MARK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(page: str) -> str:
    """Return a page with the text between its table marks replaced by the current tables."""
    return _MARK.sub(lambda found: found[1] + "\n".join(TABLES[found[2]]()) + "\n" + found[3], page)


def _measurements(register: Register) -> Iterator[str]:
    yield "| name | measures | unit (UCUM) | direction | usual range | formula | source | code |"
    yield "|---|---|---|---|---|---|---|---|"
    for item in register:
        code = f"({item.code.value}, {item.code.scheme})"
        cells = (item.meaning, f"`{item.unit}`", item.direction.value, _range(item), item.formula, item.reference, code)
        yield f"| `{item.name}` | {' | '.join(cells)} |"


def _range(item: Quantity) -> str:
    if item.low is None and item.high is None:
        return ""
    if item.high is None:
        return f"from {item.low:g}"
    return f"{item.low:g} to {item.high:g}" if item.low else f"to {item.high:g}"


def _limits() -> Iterator[str]:
    yield "| limit | default | meaning and source |"
    yield "|---|---|---|"
    for name, field in Thresholds.model_fields.items():
        yield f"| `{name}` | {field.default:g} | {field.description} |"


TABLES: Mapping[str, Callable[[], Iterator[str]]] = {
    "ct": lambda: _measurements(CT_QUANTITIES),
    "pet": lambda: _measurements(PET_QUANTITIES),
    "any": lambda: _measurements(GEOMETRY_QUANTITIES),
    "limits": _limits,
}


def _main(argument: str) -> None:
    page = Path(argument)
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    _main(sys.argv[1])
