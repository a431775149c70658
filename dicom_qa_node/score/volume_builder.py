"""Puts a series' files together into volumes, or says exactly why not; the first step of scoring.

`survey` reads the headers and plans the stacks, `read` decodes one of them, so that a series of many phases is in
memory one phase at a time; `assemble` does both for small series.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.domain.dose import DoseHeader
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import Finding, SeriesKind, Severity
from dicom_qa_node.score.blank_slices import blank_reason
from dicom_qa_node.score.decoder_pool import DecoderPool, StoredArray
from dicom_qa_node.score.dose_headers import DoseHeaders
from dicom_qa_node.score.multiframe import frame_headers
from dicom_qa_node.score.physics.hu_scale import check_hu_scale
from dicom_qa_node.score.reformats import without_projections
from dicom_qa_node.score.rescale_type import HU, ct_unit
from dicom_qa_node.score.rules import acquisition as irr
from dicom_qa_node.score.series_identity import ImageIdentity, identity_of, one_identity
from dicom_qa_node.score.slice_geometry import normal_of, positions, spacing_of
from dicom_qa_node.score.slice_headers import LeftOut, Lossy, SliceHeader, UnreadableHeader, open_header, slice_header
from dicom_qa_node.score.stack_pixels import PACK_ABOVE_VOXELS, StackPixels, most_voxels, read_header, read_pixels
from dicom_qa_node.score.stacks import Stack, split_into_stacks
from dicom_qa_node.score.volume import Volume

__all__ = ["HeaderScan", "HeadersFound", "ImagesAhead", "build_volume", "build_volumes", "scan_headers", "survey_each"]


@dataclass(frozen=True, slots=True)
class HeaderScan:
    """What a series holds, by its headers: its stacks, and what concerns all of them."""

    series_instance_uid: str
    modality: str
    stacks: tuple[Stack, ...]
    left_out: tuple[LeftOut, ...]
    identity: ImageIdentity
    dose: DoseHeader = field(default_factory=DoseHeader)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is to be said of the series as a whole."""
        return tuple(irr.of_series(self.stacks, self.left_out))


def scan_headers(paths: Sequence[Path], known: Mapping[Path, HeadersFound] = MappingProxyType({})) -> HeaderScan:
    """Read the headers of one series and plan its stacks.

    Parameters
    ----------
    paths
        Part 10 files of a single series, in any order.
    known
        What `HeadersFound.of_file` found in some of them before.

    Raises
    ------
    Permanent
        Nothing in it can be scored, or the files are of several series, studies or patients; the text says why.
    """
    found = HeadersFound()
    with at.tolerant():
        for path in paths:
            found.extend(known.get(path) or HeadersFound.of_file(path))
    return found.survey()


def survey_each(paths: Sequence[Path]) -> tuple[HeaderScan, ...]:
    """Read the headers of several series and plan the stacks of each; a series that cannot be scored is passed over.

    Raises
    ------
    Permanent
        No series can be scored; the text says why the first cannot.
    """
    by_series: dict[str, HeadersFound] = {}
    with at.tolerant():
        for path in paths:
            one = HeadersFound.of_file(path)
            by_series.setdefault(one.series_instance_uid, HeadersFound()).extend(one)
    found: list[HeaderScan] = []
    problems: list[Permanent] = []
    for headers in by_series.values():
        try:
            found.append(headers.survey())
        except Permanent as error:
            problems.append(error)
    if not found:
        raise problems[0] if problems else Permanent(_why_nothing(()))
    return tuple(found)


class HeadersFound:
    """What the headers of files hold: slices, what is none, whose they are, and their dose."""

    def __init__(self) -> None:
        self.slices: list[SliceHeader] = []
        self.left_out: list[LeftOut] = []
        self.identities: list[ImageIdentity] = []
        self.dose = DoseHeaders()

    @property
    def series_instance_uid(self) -> str:
        """The series of the first slice, "" where there is none."""
        return next((item.series_instance_uid for item in self.slices), "")

    @classmethod
    def of_file(cls, path: Path) -> HeadersFound:
        """Read the header of one file; to be called within `headers.tolerant`."""
        one = cls()
        for found in _contents(path, one.identities, one.dose):
            (one.slices if isinstance(found, SliceHeader) else one.left_out).append(found)  # type: ignore[arg-type]
        return one

    def extend(self, other: HeadersFound) -> None:
        """Add what other files hold."""
        self.slices += other.slices
        self.left_out += other.left_out
        self.identities += other.identities
        self.dose.extend(other.dose)

    def survey(self) -> HeaderScan:
        """Plan the stacks of what must be one series; see `scan_headers`."""
        if not self.slices:
            raise Permanent(_why_nothing(self.left_out))
        series = sorted({item.series_instance_uid for item in self.slices if item.series_instance_uid}) or [""]
        if len(series) > 1:
            raise Permanent(f"the files are of {len(series)} series: {', '.join(series[:3])}")
        identity = one_identity(self.identities)
        slices, others = _of_one_kind(self.slices)
        stacks, projections = without_projections(split_into_stacks(slices))
        if not stacks:
            raise Permanent(_why_nothing([*self.left_out, *projections]))
        left_out = (*self.left_out, *others, *projections)
        dose = self.dose.summary(item.acquired for stack in stacks for item in stack.slices)
        return HeaderScan(series[0], slices[0].kind.modality, tuple(stacks), left_out, identity, dose)


@dataclass(slots=True)
class ImagesAhead:
    """What was read of one series: the headers of each file, and the decoded picture of a compressed single frame."""

    headers: dict[Path, HeadersFound] = field(default_factory=dict)
    frames: dict[Path, StoredArray] = field(default_factory=dict)

    @property
    def slice_count(self) -> int:
        """How many slices the headers describe; an object of many frames counts as many."""
        return sum(max(len(found.slices), 1) for found in self.headers.values())

    @property
    def frame_bytes(self) -> int:
        """Memory of the pictures."""
        return sum(frame.nbytes for frame in self.frames.values())


def build_volume(
    stack: Stack,
    decoders: DecoderPool,
    *,
    pack_above: int = PACK_ABOVE_VOXELS,
    decoded: Mapping[Path, StoredArray] = MappingProxyType({}),
) -> Volume:
    """Decode one stack.

    Parameters
    ----------
    decoded
        The stored values of single-frame files that were decoded before.

    Raises
    ------
    Permanent
        Not one of its slices can be decoded.
    """
    slices, skipped = _within_memory(stack.slices)
    header = read_header(slices[0])
    pixels = read_pixels(slices, decoders, header, pack_above, decoded)
    if not pixels.kept:
        first = min(pixels.broken.items())
        raise Permanent(
            f"none of {len(slices)} slices can be decoded; the first, {slices[first[0]].sop_instance_uid}: {first[1]}"
        )
    kept = [slices[index] for index in pixels.kept]
    findings = (*irr.of_stack(stack, slices, pixels, header, skipped), *(pixels.scale.findings if pixels.scale else ()))
    volume = _volume(stack, kept, pixels, findings)
    if pixels.blank:
        places = positions([slices[index].origin_mm for index in pixels.blank], normal_of(slices[0].orientation))
        volume = replace(volume, blank_mm=tuple(map(float, places)), unusable=blank_reason(pixels))
    return _on_known_scale(volume)


def build_volumes(paths: Sequence[Path], decoders: DecoderPool | None = None) -> list[Volume]:
    """Return every stack of one series; see `survey` and `read`."""
    found = scan_headers(paths)
    with decoders or DecoderPool() as pool:
        return [build_volume(stack, pool) for stack in found.stacks]


def _contents(path: Path, identities: list[ImageIdentity], dose: DoseHeaders) -> Iterator[SliceHeader | LeftOut]:
    try:
        ds, offset = open_header(path)
    except UnreadableHeader as error:
        yield LeftOut(path.name, "object with a broken header", str(error), broken=True)
        return
    identities.append(identity_of(ds))
    dose.add(ds)
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


def _volume(stack: Stack, slices: Sequence[SliceHeader], pixels: StackPixels, findings: Sequence[Finding]) -> Volume:
    first = slices[0]
    normal = normal_of(first.orientation)
    origins = np.array([item.origin_mm for item in slices])
    places = origins @ normal
    gap = spacing_of(places).nominal_mm or first.thickness_mm or 1.0
    way = origins[-1] - origins[0]
    axis = way / np.linalg.norm(way) if len(slices) > 1 else normal
    row, column = np.array(first.orientation[3:]), np.array(first.orientation[:3])
    return Volume(
        voxels=pixels.voxels,
        kind=first.kind.kind,
        unit=pixels.unit,
        # Along a tilted axis neighbouring centres are further apart than the slices are.
        spacing_mm=(gap / float(abs(axis @ normal)), *first.spacing_mm),
        origin_mm=first.origin_mm,
        direction=np.stack([axis, row, column], axis=1),
        positions_mm=places,
        sop_instance_uids=tuple(item.sop_instance_uid for item in slices),
        sop_class_uids=tuple(item.sop_class_uid for item in slices),
        frame_numbers=tuple(None if item.frame is None else item.frame + 1 for item in slices),
        header=read_header(first),
        valid=pixels.valid,
        stack_name=stack.name,
        findings=tuple(findings),
        origins_mm=origins,
        thickness_mm=tuple(item.thickness_mm for item in slices),
        lossy=_strongest(item.lossy for item in slices),
        suv_ratios=pixels.scale.ratios if pixels.scale else {},
        pet_times=pixels.scale.times if pixels.scale else None,
    )


def _on_known_scale(volume: Volume) -> Volume:
    """Compare the values of a CT with the HU scale; note what is wrong with them."""
    if volume.kind is not SeriesKind.CT or volume.unit != HU or volume.unusable:
        return volume
    scale = check_hu_scale(volume)
    stated = at.word(volume.header, "RescaleType")
    if scale.fault is not None:
        finding = Finding("hu_scale_off", Severity.ERROR, scale.sentence, scale.evidence)
        return replace(volume, unusable=scale.reason, findings=(*volume.findings, finding))
    if ct_unit(stated) == HU or scale.proven:
        return volume
    return replace(volume, unit=stated, findings=(*volume.findings, irr.unit_unexpected(stated, HU)))


def _strongest(losses: Iterable[Lossy | None]) -> Lossy | None:
    return max((item for item in losses if item), key=lambda item: item.ratio or np.inf, default=None)
