"""What changed from one scored version of a series to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dicom_qa_node.records import LogEntry

__all__ = ["Change", "compared"]

_NOTED = 0.1


@dataclass(frozen=True, slots=True)
class Change:
    """One version beside the one before it (None for the first): sentences about what differs."""

    entry: LogEntry
    sentences: tuple[str, ...]


def compared(entries: Sequence[LogEntry]) -> list[Change]:
    """Return the versions, the latest first, each with its differences from the one before."""
    ordered = sorted(entries, key=lambda item: item.version)
    before: LogEntry | None = None
    found = []
    for entry in ordered:
        found.append(Change(entry, tuple(_differences(before, entry)) if before else ()))
        before = entry
    return found[::-1]


def _differences(old: LogEntry, new: LogEntry) -> list[str]:
    one, two = old.result, new.result
    said = []
    if one.score is not None and two.score is not None and abs(two.score - one.score) >= 0.005:
        said.append(f"score {two.score - one.score:+.2f}")
    elif (one.score is None) != (two.score is None):
        said.append("has a score now" if one.score is None else "has no score any more")
    if one.grade != two.grade:
        said.append(f"grade {one.grade.value if one.grade else 'none'} → {two.grade.value if two.grade else 'none'}")
    if one.instances_used != two.instances_used:
        said.append(f"{two.instances_used - one.instances_used:+d} images")
    if (one.model.name, one.model.sha256) != (two.model.name, two.model.sha256):
        said.append(f"another model: {two.model.name} {two.model.version}")
    if one.pair_series_uid != two.pair_series_uid:
        said.append("with its CT now" if two.pair_series_uid else "without its CT now")
    keys, other = {item.key for item in one.findings}, {item.key for item in two.findings}
    said += [f"new finding: {key.replace('_', ' ')}" for key in sorted(other - keys)]
    said += [f"no longer: {key.replace('_', ' ')}" for key in sorted(keys - other)]
    return said + _measured(old, new)


def _measured(old: LogEntry, new: LogEntry) -> list[str]:
    values = {item.name: item.value for item in old.result.measurements}
    said = []
    for item in new.result.measurements:
        was = values.get(item.name)
        if was is not None and item.value is not None and abs(item.value - was) > _NOTED * max(abs(was), 1e-9):
            said.append(f"{item.meaning.lower()} {was:.3g} → {item.value:.3g}")
    return said[:6]
