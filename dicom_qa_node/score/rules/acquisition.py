"""Findings about the acquisition: missing, duplicate or excluded instances, spacing, tilt, compression."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from pydicom import Dataset

from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.domain.codes import Code
from dicom_qa_node.domain.results import Finding, Severity
from dicom_qa_node.domain.uids import is_uid
from dicom_qa_node.score.blank_slices import too_many_blank
from dicom_qa_node.score.physics.geometry_checks import announced_slices
from dicom_qa_node.score.rules.case import INCOMPLETE, Case, Rule, code_of
from dicom_qa_node.score.slice_geometry import normal_of, plane_of, positions, spacing_of, tilt_of
from dicom_qa_node.score.slice_headers import LeftOut, Lossy, SliceHeader
from dicom_qa_node.score.stack_pixels import StackPixels
from dicom_qa_node.score.stacks import Stack

__all__ = ["COMPLETENESS_RULES", "counted", "of_series", "of_stack", "unit_unexpected"]

_INCOMPLETE = Code("130576", "DCM", "Anatomy coverage incomplete")
_LONGEST_LIST = 20
_TILT_DEG = 0.5
_OBLIQUE_DEG = 10.0

_MOST_TILT_DEG = 35.0


def counted(left_out: Sequence[LeftOut]) -> str:
    """Return "2 localizers, 1 dose screen"."""
    return ", ".join(_many(count, what) for what, count in Counter(item.what for item in left_out).most_common())


def of_series(stacks: Sequence[Stack], left_out: Sequence[LeftOut]) -> Iterator[Finding]:
    """Yield what concerns the series as a whole."""
    passed = [item for item in left_out if not item.broken]
    if passed:
        sentence = f"{_many(len(passed), 'object')} of the series are not slices and were left out: {counted(passed)}."
        yield _about("objects_left_out", Severity.INFO, sentence, passed)
    broken = [item for item in left_out if item.broken]
    if broken:
        reasons = "; ".join(dict.fromkeys(item.reason for item in broken))
        sentence = f"{_many(len(broken), 'object')} could not be used and were left out: {reasons}."
        yield _about("headers_broken", Severity.WARNING, sentence, broken)
    if len(stacks) > 1:
        names = "; ".join(f"{stack.name or 'stack'} ({len(stack.slices)} slices)" for stack in stacks[:_LONGEST_LIST])
        sentence = f"The series holds {len(stacks)} stacks of slices, which were scored separately: {names}."
        yield Finding("several_stacks", Severity.INFO, sentence, evidence=f"{len(stacks)} stacks")


def of_stack(
    stack: Stack, slices: Sequence[SliceHeader], pixels: StackPixels, header: Dataset, skipped: int
) -> Iterator[Finding]:
    """Yield what concerns one stack; ``slices`` are those that were read, ``skipped`` those passed over for size."""
    kept = [slices[index] for index in pixels.kept]
    if skipped:
        sentence = f"The series is too large for memory: {len(slices)} of {len(slices) + skipped} slices were read."
        yield Finding("series_thinned", Severity.WARNING, sentence, evidence=f"{skipped} slices passed over")
    yield from _about_left_out(stack)
    yield from _about_broken(slices, pixels)
    yield from _about_blank(slices, pixels)
    yield from _about_spacing([slices[index] for index in sorted({*pixels.kept, *pixels.blank})])
    yield from _about_plane(kept, header)
    yield from _about_values(kept, pixels)


def _about_left_out(stack: Stack) -> Iterator[Finding]:
    for what in dict.fromkeys(item.what for item in stack.left_out):
        some = [item for item in stack.left_out if item.what == what]
        sentence = f"{_many(len(some), what)} left out: {some[0].reason}."
        yield _about(what.replace(" ", "_") + "s", Severity.WARNING, sentence, some)


def _about_broken(slices: Sequence[SliceHeader], pixels: StackPixels) -> Iterator[Finding]:
    if not pixels.broken:
        return
    broken = (slices[index].sop_instance_uid for index in sorted(pixels.broken))
    uids = tuple(uid for uid in broken if is_uid(uid))
    reasons = "; ".join(dict.fromkeys(pixels.broken[index] for index in sorted(pixels.broken)))
    count = len(pixels.broken)
    sentence = f"{_many(count, 'slice')} of {len(slices)} cannot be decoded and left out: {reasons}."
    yield Finding(
        "slices_undecodable", Severity.WARNING, sentence, f"{count} of {len(slices)}", None, uids[:_LONGEST_LIST]
    )


def _about_blank(slices: Sequence[SliceHeader], pixels: StackPixels) -> Iterator[Finding]:
    if not pixels.blank:
        return
    blank = [slices[index] for index in pixels.blank]
    total = len({*pixels.kept, *pixels.blank})
    uids = tuple(item.sop_instance_uid for item in blank if is_uid(item.sop_instance_uid))[:_LONGEST_LIST]
    places = positions([item.origin_mm for item in blank], normal_of(blank[0].orientation))
    where = ", ".join(f"{place:.1f}" for place in places[:_LONGEST_LIST])
    evidence = f"{len(blank)} of {total} slices, at {where} mm along the stack"
    cause = ""
    if any(item.slope == 0 for item in blank):
        cause = ": Rescale Slope (0028,1053) is 0"
    count = "All" if len(blank) == total else f"{len(blank)} of"
    named = f"{count} {total} slices are empty or cut short"
    which = f"slices {_ranges(pixels.blank)}{cause}"
    if too_many_blank(len(blank), total):
        sentence = f"{named}, {which}: nothing can be judged."
        yield Finding("images_blank", Severity.ERROR, sentence, evidence, None, uids)
    else:
        sentence = f"{named} and were left out, {which}."
        yield Finding("slices_blank", Severity.WARNING, sentence, evidence, None, uids)


def _ranges(indices: Sequence[int]) -> str:
    """Return "1 to 3, 7": slices counted from 1."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(f"{low + 1}" if low == high else f"{low + 1} to {high + 1}" for low, high in runs)


def _about_spacing(kept: Sequence[SliceHeader]) -> Iterator[Finding]:
    if len(kept) == 1:
        yield Finding("single_slice", Severity.INFO, "The series holds a single slice.")
        return
    gap = spacing_of(positions([item.origin_mm for item in kept], normal_of(kept[0].orientation)))
    evidence = f"gaps {gap.low_mm:.2f} to {gap.high_mm:.2f} mm, usually {gap.nominal_mm:.2f} mm"
    if gap.missing:
        sentence = f"{_many(gap.missing, 'slice')} missing between the first and the last."
        yield Finding("slices_missing", Severity.WARNING, sentence, evidence, _INCOMPLETE)
    if gap.uneven:
        sentence = "The gaps between slices are uneven."
        yield Finding("gaps_uneven", Severity.WARNING, sentence, evidence)
    thickest = max((item.thickness_mm or 0.0 for item in kept), default=0.0)
    if len(gap.zones_mm) > 1:
        steps = " and ".join(f"{step:.3g}" for step in gap.zones_mm)
        yield Finding("slice_zones", Severity.INFO, f"The stack has zones of slices {steps} mm apart.", evidence)
    elif not gap.uneven and 0.0 < thickest < 0.98 * gap.nominal_mm:
        sentence = f"Tissue between the slices is not imaged: {thickest:g} mm thick, {gap.nominal_mm:.3g} mm apart."
        yield Finding("slices_apart", Severity.INFO, sentence, evidence)


def _about_plane(kept: Sequence[SliceHeader], header: Dataset) -> Iterator[Finding]:
    normal = normal_of(kept[0].orientation)
    plane, angle = plane_of(normal)
    tilt = tilt_of(np.array([item.origin_mm for item in kept]), normal)
    if tilt > _TILT_DEG:
        stated = at.number(header, "GantryDetectorTilt")
        evidence = f"{tilt:.1f} degrees by the positions" + ("" if stated is None else f", {stated:g} by the header")
        sentence = f"The stack is sheared by {tilt:.1f} degrees, as with a tilted gantry."
        yield Finding("gantry_tilt", Severity.INFO, sentence, evidence)
    elif len(kept) == 1 and plane == "axial" and angle <= _MOST_TILT_DEG and "ORIGINAL" in _image_type(header):
        sentence = f"The slice is tilted by {angle:.1f} degrees, as with a tilted gantry."
        if angle > _TILT_DEG:
            yield Finding("gantry_tilt", Severity.INFO, sentence, f"normal {np.round(normal, 3).tolist()}")
    elif plane != "axial" or angle > _OBLIQUE_DEG:
        oblique = f", {angle:.0f} degrees oblique" if angle > 1 else ""
        sentence = f"The slices are {plane}{oblique}: a reformatted series."
        yield Finding("not_axial", Severity.INFO, sentence, f"normal {np.round(normal, 3).tolist()}")


def _about_values(kept: Sequence[SliceHeader], pixels: StackPixels) -> Iterator[Finding]:
    if any(item.slope is None or item.intercept is None for item in kept):
        sentence = (
            "Rescale Slope (0028,1053) or Intercept (0028,1052) is missing: stored values were taken as they are."
        )
        yield Finding("rescale_missing", Severity.WARNING, sentence)
    if pixels.scale is None and pixels.unit != kept[0].kind.unit:
        yield unit_unexpected(pixels.unit, kept[0].kind.unit)


def unit_unexpected(unit: str, expected: str) -> Finding:
    """Return the finding about values of another quantity."""
    sentence = f"The pixel values are {unit}, not {expected}: no score and no noise figures apply."
    return Finding("unit_unexpected", Severity.ERROR, sentence, f"Rescale Type (0028,1054) is {unit}")


def _image_type(header: Dataset) -> list[str]:
    return [value.upper() for value in at.words(header, "ImageType")]


def _about(key: str, severity: Severity, sentence: str, objects: Sequence[LeftOut]) -> Finding:
    uids = tuple(dict.fromkeys(item.sop_instance_uid for item in objects if is_uid(item.sop_instance_uid)))
    evidence = "; ".join(dict.fromkeys(f"{item.sop_instance_uid}: {item.reason}" for item in objects[:3]))
    return Finding(key, severity, sentence, evidence, None, uids[:_LONGEST_LIST])


def _many(count: int, noun: str) -> str:
    plural = noun if count == 1 or noun.endswith("s") else noun.replace("object ", "objects ", 1)
    if count > 1 and plural == noun and not noun.endswith("s"):
        plural = noun + "s"
    return f"{count} {plural}"


def incomplete(case: Case) -> Finding | None:
    """Fewer slices came than the header announces."""
    share = case.value("completeness")
    announced = announced_slices(case.volume)
    if share is None or announced is None or share >= case.limits.completeness_percent:
        return None
    count = len(case.volume.positions_mm)
    sentence = (
        f"Only {count} of {announced} announced slices are here: send the rest or check why the scan ended early."
    )
    evidence = f"{share:.0f} % of the announced slices, limit {case.limits.completeness_percent:.0f} %"
    return Finding("incomplete", Severity.WARNING, sentence, evidence, INCOMPLETE)


def slices_missing(case: Case) -> Finding | None:
    """Slices are missing between the first and the last."""
    missing = case.value("missing_slices")
    if not missing:
        return None
    largest = case.measured["largest_gap"]
    count = "1 slice is" if missing == 1 else f"{missing:.0f} slices are"
    sentence = f"{count} missing between the first and the last."
    evidence = f"largest distance {largest.value or 0.0:.1f} mm {largest.detail}"
    return Finding("slices_missing", Severity.WARNING, sentence, evidence, INCOMPLETE)


def lossy_compression(case: Case) -> Finding | None:
    """The pixels were once compressed with loss (PS3.3 C.7.6.1.1.5), or came in a lossy transfer syntax unsaid."""
    lossy = case.volume.lossy
    if lossy is None:
        return None
    shown = _ratio(lossy)
    mild = lossy.declared and lossy.ratio is not None and lossy.ratio <= case.limits.lossy_ratio
    if lossy.declared:
        how, value = "were compressed with loss", "01"
    else:
        how, value = "came in a lossy transfer syntax that their header hides", "not 01"
    sentence = f"The images {how} ({shown}): noise and fine detail differ from the original reconstruction."
    evidence = f"Lossy Image Compression (0028,2110) {value}, ratio {shown}, limit {case.limits.lossy_ratio:g}:1"
    severity = Severity.INFO if mild else Severity.WARNING
    return Finding("lossy_compression", severity, sentence, evidence, code_of("lossy_compression"))


def _ratio(lossy: Lossy) -> str:
    if lossy.ratio is None:
        return "an unknown ratio"
    return f"about {lossy.ratio:.1f}:1 by their size" if lossy.measured else f"{lossy.ratio:g}:1"


COMPLETENESS_RULES: tuple[Rule, ...] = (incomplete, slices_missing, lossy_compression)
