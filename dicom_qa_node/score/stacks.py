"""Sorts the slices of a series into stacks: by plane and grid, then by what tells apart slices at one position."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dicom_qa_node.score.slice_geometry import SAME_POSITION_MM, normal_of, off_grid, plane_of, positions, spacing_of
from dicom_qa_node.score.slice_headers import LeftOut, SliceHeader

__all__ = ["Stack", "split_into_stacks"]

_SAME_DIRECTION = 2e-3
_SAME_SPACING = 1e-3
_MIN_INTERLEAVED = 3
_MOST_INTERLEAVED = 8
_TABLE_MM = 0.35
_SHARE_OF_GAP = 0.45

FloatVector = np.typing.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Stack:
    """One stack: slices in ascending order along their normal, one at each position.

    ``name`` is "" where the series is one stack. ``left_out`` are its duplicates and strays.
    """

    name: str
    slices: tuple[SliceHeader, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def positions_mm(self) -> np.typing.NDArray[np.float64]:
        """Position of each slice along the normal."""
        return _positions(self.slices)


def split_into_stacks(slices: Iterable[SliceHeader]) -> list[Stack]:
    """Return the stacks of a series, in order of their first instance number.

    Slices of one plane and grid form one stack as long as each position is taken once. Where positions repeat, the
    attribute that explains it best (acquisition, phase, echo, kernel, time ...) separates the stacks; where nothing
    explains it, whole repetitions become stacks by instance number, and single ones are duplicates.
    """
    found: list[Stack] = []
    grids = _by_grid(_without_copies(slices))
    for group in grids:
        label = _grid_name(group) if len(grids) > 1 else ""
        for stack in _separate(sorted(group, key=_order)):
            name = ", ".join(word for word in (label, stack.name) if word)
            found.append(_ordered(Stack(name, stack.slices, stack.left_out)))
    return sorted(found, key=lambda stack: min(_order(header) for header in stack.slices))


def _order(header: SliceHeader) -> tuple[int, str, int]:
    return header.instance_number, header.sop_instance_uid, header.frame or 0


def _without_copies(slices: Iterable[SliceHeader]) -> list[SliceHeader]:
    """Keep one of several files with one SOP Instance UID."""
    unique: dict[tuple[str, int | None], SliceHeader] = {}
    for header in slices:
        unique.setdefault((header.sop_instance_uid, header.frame), header)
    return list(unique.values())


def _by_grid(slices: Iterable[SliceHeader]) -> list[list[SliceHeader]]:
    groups: list[list[SliceHeader]] = []
    for header in slices:
        home = next((group for group in reversed(groups) if _one_grid(group[0], header)), None)
        if home is None:
            groups.append([header])
        else:
            home.append(header)
    return groups


def _one_grid(a: SliceHeader, b: SliceHeader) -> bool:
    return (
        (a.pixels.rows, a.pixels.columns) == (b.pixels.rows, b.pixels.columns)
        and a.kind is b.kind
        and all(abs(x - y) < _SAME_DIRECTION for x, y in zip(a.orientation, b.orientation, strict=True))
        and all(abs(x - y) < _SAME_SPACING * x for x, y in zip(a.spacing_mm, b.spacing_mm, strict=True))
    )


def _grid_name(group: Sequence[SliceHeader]) -> str:
    first = group[0]
    plane, angle = plane_of(normal_of(first.orientation))
    oblique = f" {angle:.0f}° oblique" if angle > 1 else ""
    return f"{plane}{oblique} {first.pixels.rows}x{first.pixels.columns} of {first.spacing_mm[0]:.3g} mm"


def _positions(slices: Sequence[SliceHeader]) -> np.typing.NDArray[np.float64]:
    return positions([header.origin_mm for header in slices], normal_of(slices[0].orientation))


def _separate(group: Sequence[SliceHeader]) -> list[Stack]:
    reach = _reach(group)
    crowd = _crowd(group, reach)
    if crowd == 1:
        return _interleaved(group)
    for trait in _trait_names(group):
        shares = _by_trait(group, trait)
        if 1 < len(shares) <= 2 * crowd and max(_crowd(share, reach) for share in shares.values()) < crowd:
            return [
                Stack(", ".join(filter(None, (f"{trait} {value}", stack.name))), stack.slices, stack.left_out)
                for value, share in shares.items()
                for stack in _separate(share)
            ]
    return _by_rank(group, crowd, reach)


def _reach(group: Sequence[SliceHeader]) -> float:
    """Return how near slices are at one position: where most are further apart, the table may have moved a little."""
    gaps = np.diff(np.sort(_positions(group)))
    apart = gaps[gaps > _TABLE_MM]
    if apart.size < _MIN_INTERLEAVED - 1:
        return SAME_POSITION_MM
    return max(SAME_POSITION_MM, min(_TABLE_MM, _SHARE_OF_GAP * float(apart.min())))


def _crowd(group: Sequence[SliceHeader], reach: float) -> int:
    """Return how many slices share the most crowded position."""
    return max(len(cell) for cell in _cells(group, reach))


def _cells(group: Sequence[SliceHeader], reach: float = SAME_POSITION_MM) -> list[list[SliceHeader]]:
    """Gather slices by position, in ascending order of positions, keeping their order at one position."""
    place = _positions(group)
    order = np.argsort(place, kind="stable")
    cells: list[list[SliceHeader]] = []
    first = -np.inf
    for index in order:
        if place[index] - first > reach:
            cells.append([])
            first = place[index]
        cells[-1].append(group[index])
    for cell in cells:
        cell.sort(key=_order)
    return cells


def _trait_names(group: Sequence[SliceHeader]) -> list[str]:
    """Return the traits that the slices have, in order of trust."""
    names: dict[str, None] = {}
    for header in group:
        names.update(dict.fromkeys(name for name, _ in header.traits))
    return list(names)


def _by_trait(group: Sequence[SliceHeader], trait: str) -> dict[str, list[SliceHeader]]:
    shares: dict[str, list[SliceHeader]] = defaultdict(list)
    for header in group:
        shares[dict(header.traits).get(trait, "unknown")].append(header)
    return shares


def _interleaved(group: Sequence[SliceHeader]) -> list[Stack]:
    """Separate acquisitions that lie between each other without sharing a position, each even by itself."""
    for trait in ("acquisition", "stack"):
        shares = _by_trait(group, trait)
        if 1 < len(shares) <= _MOST_INTERLEAVED and all(_is_even(share) for share in shares.values()):
            apart = [_positions(share) for share in shares.values()]
            if any(_overlap(one, other) for i, one in enumerate(apart) for other in apart[i + 1 :]):
                return [Stack(f"{trait} {value}", tuple(share)) for value, share in shares.items()]
    return [Stack("", tuple(group))]


def _overlap(one: FloatVector, other: FloatVector) -> bool:
    """Whether two acquisitions cover the same stretch: neighbouring zones and table positions do not."""
    shared = min(one.max(), other.max()) - max(one.min(), other.min())
    return bool(shared > 0.5 * min(np.ptp(one), np.ptp(other)))


def _even_order(group: Sequence[SliceHeader]) -> np.typing.NDArray[np.float64]:
    return np.sort(_positions(group))


def _is_even(group: Sequence[SliceHeader]) -> bool:
    return len(group) >= _MIN_INTERLEAVED and not spacing_of(_even_order(group)).uneven


def _by_rank(group: Sequence[SliceHeader], crowd: int, reach: float) -> list[Stack]:
    """Separate what no attribute tells apart: whole repetitions by instance number, else duplicates."""
    cells = _cells(group, reach)
    repeated = sum(len(cell) == crowd for cell in cells)
    if len(cells) >= _MIN_INTERLEAVED and repeated >= 0.9 * len(cells):
        ranks = [[cell[rank] for cell in cells if rank < len(cell)] for rank in range(crowd)]
        if not _same_pixels(cells):
            return [Stack(f"repetition {rank + 1}", tuple(chosen)) for rank, chosen in enumerate(ranks)]
    kept = tuple(cell[0] for cell in cells)
    spare = [header for cell in cells for header in cell[1:]]
    reason = "another slice lies at the same position and no attribute tells them apart"
    return [Stack("", kept, tuple(LeftOut(header.sop_instance_uid, "duplicate slice", reason) for header in spare))]


def _same_pixels(cells: Sequence[Sequence[SliceHeader]], looks: int = 3) -> bool:
    """Return whether slices at one position are copies of each other, judged on a few positions."""
    crowded = [cell for cell in cells if len(cell) > 1]
    chosen = crowded[:: max(1, len(crowded) // looks)][:looks]
    return all(len({_stored_bytes(header) for header in cell}) == 1 for cell in chosen)


def _stored_bytes(header: SliceHeader) -> bytes:
    pixels = header.pixels
    if pixels.offset is None:
        return pixels.path.read_bytes()
    with pixels.path.open("rb") as file:
        file.seek(pixels.offset + (header.frame or 0) * pixels.frame_bytes)
        return file.read(pixels.frame_bytes)


def _ordered(stack: Stack) -> Stack:
    """Put the slices in order along the normal and take single strays off the grid."""
    place = _positions(stack.slices)
    order = np.argsort(place, kind="stable")
    slices = [stack.slices[index] for index in order]
    stray = set(off_grid(place[order]))
    reason = "it lies between the even positions of the other slices"
    extra = tuple(LeftOut(slices[index].sop_instance_uid, "extra slice", reason) for index in sorted(stray))
    kept = tuple(header for index, header in enumerate(slices) if index not in stray)
    return Stack(stack.name, kept, stack.left_out + extra)
