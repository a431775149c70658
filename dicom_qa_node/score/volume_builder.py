"""Puts a series' files together into volumes, or says exactly why not; the first step of scoring.

`survey` reads the headers and plans the stacks, `read` decodes one of them, so that a series of many phases is in
memory one phase at a time; `assemble` does both for small series.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import Finding
from dicom_qa_node.score.decoder_pool import DecoderPool
from dicom_qa_node.score.multiframe import frame_headers
from dicom_qa_node.score.rules import acquisition as irr
from dicom_qa_node.score.series_identity import ImageIdentity, identity_of, one_identity
from dicom_qa_node.score.slice_geometry import normal_of, spacing_of
from dicom_qa_node.score.slice_headers import LeftOut, Lossy, SliceHeader, UnreadableHeader, open_header, slice_header
from dicom_qa_node.score.stack_pixels import PACK_ABOVE_VOXELS, StackPixels, most_voxels, read_header, read_pixels
from dicom_qa_node.score.stacks import Stack as Part
from dicom_qa_node.score.stacks import split_into_stacks
from dicom_qa_node.score.volume import Volume

__all__ = ["HeaderScan", "build_volume", "build_volumes", "scan_headers"]


@dataclass(frozen=True, slots=True)
class HeaderScan:
    """What a series holds, by its headers: its stacks, and what concerns all of them."""

    series_instance_uid: str
    modality: str
    parts: tuple[Part, ...]
    left_out: tuple[LeftOut, ...]
    identity: ImageIdentity

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is to be said of the series as a whole."""
        return tuple(irr.of_series(self.parts, self.left_out))


def scan_headers(paths: Sequence[Path]) -> HeaderScan:
    """Read the headers of one series and plan its stacks.

    Parameters
    ----------
    paths
        Part 10 files of a single series, in any order.

    Raises
    ------
    Permanent
        Nothing in it can be scored, or the files are of several series, studies or patients; the text says why.
    """
    slices: list[SliceHeader] = []
    left_out: list[LeftOut] = []
    identities: list[ImageIdentity] = []
    with at.tolerant():
        for path in paths:
            for found in _contents(path, identities):
                (slices if isinstance(found, SliceHeader) else left_out).append(found)  # type: ignore[arg-type]
    if not slices:
        raise Permanent(_why_nothing(left_out))
    series = sorted({item.series_instance_uid for item in slices if item.series_instance_uid}) or [""]
    if len(series) > 1:
        raise Permanent(f"the files are of {len(series)} series: {', '.join(series[:3])}")
    identity = one_identity(identities)
    slices, others = _of_one_kind(slices)
    return HeaderScan(
        series[0], slices[0].kind.modality, tuple(split_into_stacks(slices)), (*left_out, *others), identity
    )


def build_volume(part: Part, decoders: DecoderPool, *, pack_above: int = PACK_ABOVE_VOXELS) -> Volume:
    """Decode one stack.

    Raises
    ------
    Permanent
        Not one of its slices can be decoded.
    """
    slices, skipped = _within_memory(part.slices)
    header = read_header(slices[0])
    stack = read_pixels(slices, decoders, header, pack_above)
    if not stack.kept:
        first = min(stack.broken.items())
        raise Permanent(
            f"none of {len(slices)} slices can be decoded; the first, {slices[first[0]].sop_instance_uid}: {first[1]}"
        )
    kept = [slices[index] for index in stack.kept]
    findings = (*irr.of_stack(part, slices, stack, header, skipped), *(stack.scale.findings if stack.scale else ()))
    return _volume(part, kept, stack, findings)


def build_volumes(paths: Sequence[Path], decoders: DecoderPool | None = None) -> list[Volume]:
    """Return every stack of one series; see `survey` and `read`."""
    found = scan_headers(paths)
    with decoders or DecoderPool() as pool:
        return [build_volume(part, pool) for part in found.parts]


def _contents(path: Path, identities: list[ImageIdentity]) -> Iterator[SliceHeader | LeftOut]:
    try:
        ds, offset = open_header(path)
    except UnreadableHeader as error:
        yield LeftOut(path.name, "object with a broken header", str(error), broken=True)
        return
    identities.append(identity_of(ds))
    if "PerFrameFunctionalGroupsSequence" in ds or (at.integer(ds, "NumberOfFrames") or 1) > 1:
        yield from frame_headers(ds, path, offset)
    else:
        yield slice_header(ds, path, offset)


def _why_nothing(left_out: Sequence[LeftOut]) -> str:
    if not left_out:
        return "the series holds no files"
    counted = irr.counted(left_out)
    broken = next((item for item in left_out if item.broken), None)
    example = "" if broken is None else f"; for example {broken.sop_instance_uid}: {broken.reason}"
    return f"the series holds no slices that can be scored, only {counted}{example}"


def _of_one_kind(slices: list[SliceHeader]) -> tuple[list[SliceHeader], list[LeftOut]]:
    kinds = [item.kind for item in slices]
    main = max(kinds, key=kinds.count)
    others = [item for item in slices if item.kind is not main]
    reason = f"it is no {main.modality} image in a series of {main.modality} images"
    left = [LeftOut(item.sop_instance_uid, f"{item.kind.modality} image", reason) for item in others]
    return [item for item in slices if item.kind is main], left


def _within_memory(slices: Sequence[SliceHeader]) -> tuple[Sequence[SliceHeader], int]:
    """Return every slice, or every n-th of a series that is too large; and how many were passed over."""
    first = slices[0].pixels
    step = -(-len(slices) * first.rows * first.columns // most_voxels(slices))
    chosen = slices[::step]
    return chosen, len(slices) - len(chosen)


def _volume(part: Part, slices: Sequence[SliceHeader], stack: StackPixels, findings: Sequence[Finding]) -> Volume:
    first = slices[0]
    normal = normal_of(first.orientation)
    origins = np.array([item.origin_mm for item in slices])
    places = origins @ normal
    gap = spacing_of(places).nominal_mm or first.thickness_mm or 1.0
    way = origins[-1] - origins[0]
    axis = way / np.linalg.norm(way) if len(slices) > 1 else normal
    row, column = np.array(first.orientation[3:]), np.array(first.orientation[:3])
    return Volume(
        voxels=stack.voxels,
        kind=first.kind.kind,
        unit=stack.unit,
        # Along a tilted axis neighbouring centres are further apart than the slices are.
        spacing_mm=(gap / float(abs(axis @ normal)), *first.spacing_mm),
        origin_mm=first.origin_mm,
        direction=np.stack([axis, row, column], axis=1),
        positions_mm=places,
        sop_instance_uids=tuple(item.sop_instance_uid for item in slices),
        sop_class_uids=tuple(item.sop_class_uid for item in slices),
        frame_numbers=tuple(None if item.frame is None else item.frame + 1 for item in slices),
        header=read_header(first),
        valid=stack.valid,
        part=part.name,
        findings=tuple(findings),
        origins_mm=origins,
        lossy=_strongest(item.lossy for item in slices),
        suv_ratios=stack.scale.ratios if stack.scale else {},
        pet_times=stack.scale.times if stack.scale else None,
    )


def _strongest(losses: Iterable[Lossy | None]) -> Lossy | None:
    return max((item for item in losses if item), key=lambda item: item.ratio or np.inf, default=None)
