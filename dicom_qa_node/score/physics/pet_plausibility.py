"""Whether the values of a PET can be those of a patient: rules of structure that hold before any network looks at it.

Each rule compares the PET with the body that its CT shows, or with its own outline, and needs no SUV. The thresholds
were set on five FDG-PET/CT of one scanner model with their corruptions and checked on generated studies; see
docs/measurements.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy import ndimage, stats

from dicom_qa_node.score.physics.ct_sampling import BODY_HU, BoolArray
from dicom_qa_node.score.physics.pet_body import PetBody
from dicom_qa_node.score.volume import FloatArray, Volume

__all__ = ["Implausible", "PlausibilityRule", "Sample", "implausibilities", "one_value", "sample_of", "unmeasurable"]

ONE_VALUE = 0.20
SATURATED, NEAR_TOP, TOP_PERCENTILE = 0.03, 0.98, 99.5
ZEROS = 0.40
FLAT_COV, FLAT_RATIO, FLAT_SHARE = 0.25, 1.8, 0.45
OUTSIDE = 0.97
STRUCTURE = 6.0
LIKE_CT = 0.90
SEAMS = 2.0
MIRRORED = 0.012
LUNGS = 0.6
ORDERED = 0.5
_ORDERED_FROM = 10
_FAR_SLICES = 4
_LEAST_CONTRAST = 0.02
_SHOWN = 1e-6
_BLOCK_MM = 20.0
_FEW = 500
_MOST = 60_000
_FEW_FAR = 200
_SMOOTH_MM = 8.0
_AROUND = 7
_AROUND_BODY_MM = 30.0
_AIR_HU, _SOFT_HU, _COVERED_HU = -980.0, -200.0, -2999.0
_MUSCLE_HU = 0.0
_LUNG_CM3 = 150.0

Values = npt.NDArray[np.float32]


class PlausibilityRule(StrEnum):
    """A rule that a PET can break, in the order in which they are looked at."""

    NO_VALUES = "no_values"
    SATURATED = "saturated"
    FLAT = "flat"
    NO_STRUCTURE = "no_structure"
    LIKE_CT = "like_ct"
    OUTSIDE_BODY = "outside_body"
    MIRRORED = "mirrored"
    LUNGS = "lungs"
    SEAMS = "seams"
    SLICES_UNORDERED = "slices_unordered"

    @property
    def ceiling(self) -> float:
        """The highest score that a PET may keep that breaks it."""
        return 1.0 if self in _ONE_AT_MOST else 0.0


_ONE_AT_MOST = (
    PlausibilityRule.OUTSIDE_BODY, PlausibilityRule.MIRRORED, PlausibilityRule.LUNGS, PlausibilityRule.SEAMS,
    PlausibilityRule.SLICES_UNORDERED,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Implausible:
    """A broken rule with its figure and the limit."""

    rule: PlausibilityRule
    evidence: str


@dataclass(frozen=True, slots=True)
class Sample:
    """What the rules look at.

    Attributes
    ----------
    inner
        Uptake of the inner body, shape (n,).
    places
        Index (slice, row, column) of each of these voxels, shape (n, 3).
    smooth_inner, smooth_far
        Uptake of the inner body and more than 15 mm outside it after a Gaussian of 8 mm in the plane.
    hu
        HU of some of the inner body and the uptake there, shape (2, n) with the HU first; no columns without a CT.
    fits
        How well the uptake follows the tissue classes of the CT as it is and mirrored, by name ("" as it is); empty
        without a CT.
    soft, lung
        Smoothed uptake of soft tissue and of lung; ``lung`` is empty where there is less than 150 cm3 of it.
    steps
        For each axis the mean difference of neighbouring planes (rows, columns, slices).
    spacing_mm
        (slice, row, column).
    order
        How much more alike neighbouring slices are than distant ones: 1 in order, 0 shuffled; None for few slices.
    from_ct
        Whether the body was found on the CT.
    """

    inner: Values
    places: npt.NDArray[np.int32]
    smooth_inner: Values
    smooth_far: Values
    hu: Values
    fits: Mapping[str, float]
    soft: Values
    lung: Values
    steps: tuple[npt.NDArray[np.float64], ...]
    spacing_mm: tuple[float, float, float]
    order: float | None
    from_ct: bool


def sample_of(volume: Volume, body: PetBody) -> Sample:
    """Collect what the rules look at, slice by slice; of very large volumes every n-th voxel."""
    inner, places, smooth_inner, smooth_far = [], [], [], []
    voxels = float(np.prod(volume.voxels.shape)) * float(np.mean(body.inner))
    thin = max(1, int(voxels // (3 * _MOST)))
    sigma = [_SMOOTH_MM / 2.3548 / spacing for spacing in volume.spacing_mm[1:]]
    for index, uptake, inside, outside in body.slices(volume):
        rows, columns = np.nonzero(inside)
        inner.append(uptake[rows, columns][::thin])
        places.append(np.stack([np.full(len(rows), index), rows, columns], axis=1).astype(np.int32)[::thin])
        smooth = ndimage.gaussian_filter(uptake, sigma)
        smooth_inner.append(smooth[rows, columns][::thin])
        smooth_far.append(smooth[outside][::thin])
    return Sample(
        inner=_joined(inner),
        places=np.concatenate(places) if places else np.zeros((0, 3), np.int32),
        smooth_inner=_joined(smooth_inner),
        smooth_far=_joined(smooth_far),
        hu=_hu_and_uptake(body),
        fits=_fits(body),
        soft=_tissue(body, lung=False),
        lung=_tissue(body, lung=True),
        steps=_steps(body),
        spacing_mm=volume.spacing_mm,
        order=slice_order(body.uptake, body.spacing_mm),
        from_ct=body.from_ct,
    )


def _hu_and_uptake(body: PetBody) -> Values:
    if body.hu is None:
        return np.zeros((2, 0), np.float32)
    return np.stack([body.hu[body.inner], body.uptake[body.inner]]).astype(np.float32)


def _fits(body: PetBody) -> Mapping[str, float]:
    """Rank correlation of uptake and tissue class (air, lung, soft tissue) up to 30 mm around the body."""
    if body.hu is None or min(body.hu.shape) < 4:
        return {}
    near = np.flatnonzero(_within(body.hu > BODY_HU, body.spacing_mm, _AROUND_BODY_MM) & (body.hu > _COVERED_HU))
    if near.size < _FEW:
        return {}
    near = near[:: max(1, near.size // _MOST)]
    tissue = stats.rankdata(np.digitize(body.hu.ravel()[near], (_AIR_HU, _SOFT_HU)))
    smooth = ndimage.gaussian_filter(body.uptake, [_SMOOTH_MM / 2.3548 / step for step in body.spacing_mm])
    ways = {"": (1, 1, 1), "head to feet": (-1, 1, 1), "front to back": (1, -1, 1), "left to right": (1, 1, -1)}
    turned = {name: smooth[tuple(slice(None, None, s) for s in way)].ravel()[near] for name, way in ways.items()}
    return {name: _correlation(tissue, stats.rankdata(values)) for name, values in turned.items()}


def _tissue(body: PetBody, *, lung: bool) -> Values:
    if body.hu is None:
        return np.zeros(0, np.float32)
    airy = body.inner & (body.hu > _AIR_HU) & (body.hu < BODY_HU)
    if np.count_nonzero(airy) * float(np.prod(body.spacing_mm)) < 1000 * _LUNG_CM3:
        return np.zeros(0, np.float32)
    smooth = ndimage.gaussian_filter(body.uptake, [_SMOOTH_MM / 2.3548 / step for step in body.spacing_mm])
    return np.asarray(smooth[airy if lung else body.inner & (body.hu > _MUSCLE_HU)], np.float32)


def _within(mask: BoolArray, spacing: tuple[float, float, float], distance_mm: float) -> BoolArray:
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=spacing) < distance_mm)


def _steps(body: PetBody) -> tuple[npt.NDArray[np.float64], ...]:
    """Mean absolute difference of neighbouring planes of the coarse grid along each axis, large values cut."""
    top = float(np.percentile(body.uptake, 99)) if body.uptake.size else 0.0
    values = np.minimum(body.uptake, top)
    return tuple(
        np.abs(np.diff(values, axis=axis)).mean(axis=tuple(other for other in range(3) if other != axis), dtype=float)
        for axis in range(3)
    )


def unmeasurable(sample: Sample) -> str:
    """Return why the rules cannot be applied, "" where they can."""
    if not np.isfinite(sample.inner).all():
        return "the PET holds values that are not numbers"
    if sample.inner.size >= _FEW:
        return ""
    source = "the CT shows no body where the PET lies" if sample.from_ct else "the PET shows no body"
    return f"{source}, so that its plausibility cannot be checked"


def implausibilities(sample: Sample) -> tuple[Implausible, ...]:
    """Return the broken rules; where values are missing or the PET is flat, structure and order are not looked at."""
    found: list[Implausible] = []
    for rule, check in _CHECKS:
        if rule in _NEED_VALUES and any(item.rule.ceiling == 0 for item in found):
            break
        evidence = check(sample)
        if evidence:
            found.append(Implausible(rule, evidence))
    return tuple(found)


def one_value(volume: Volume) -> tuple[Implausible, ...]:
    """Return that there are no values where the whole PET holds one: such a PET shows no body to look into."""
    first = float(volume.voxels[0][0, 0])
    if any(float(plane.min()) != first or float(plane.max()) != first for plane in volume.voxels):
        return ()
    return (Implausible(PlausibilityRule.NO_VALUES, f"every voxel has the value {first:.3g}"),)


def no_values(sample: Sample) -> str:
    """One value fills more than a fifth of the inner body; zeros, to which noise is cut, two fifths."""
    values, counts = np.unique(sample.inner, return_counts=True)
    share = float(counts.max()) / sample.inner.size
    most = float(values[int(np.argmax(counts))])
    limit = ZEROS if most == 0 else ONE_VALUE
    if len(values) > 1 and share <= limit:
        return ""
    return f"the value {most:.3g} fills {100 * share:.0f} % of the body, limit {100 * limit:.0f} %"


def saturated(sample: Sample) -> str:
    """More than 3 % of the inner body lies at the top of the values."""
    top = float(np.percentile(sample.inner, TOP_PERCENTILE))
    share = float(np.mean(sample.inner >= NEAR_TOP * top)) if top > 0 else 1.0
    if share <= SATURATED:
        return ""
    return f"{100 * share:.1f} % of the body lie at the highest value {top:.3g}, limit {100 * SATURATED:.0f} %"


def flat(sample: Sample) -> str:
    """The uptake hardly varies over the body."""
    mean, deviation = float(sample.inner.mean()), float(sample.inner.std())
    low, high = (float(value) for value in np.percentile(sample.inner, (10, 90)))
    cov = deviation / mean if mean > 0 else np.inf
    ratio = high / low if low > 0 else np.inf
    middle = float(np.median(sample.inner))
    near = float(np.mean(np.abs(sample.inner - middle) <= 0.1 * abs(middle)))
    if cov >= FLAT_COV and ratio >= FLAT_RATIO and near <= FLAT_SHARE:
        return ""
    return (
        f"SD over mean in the body {cov:.2f} (at least {FLAT_COV:g}), 90th over 10th percentile {ratio:.1f} (at least "
        f"{FLAT_RATIO:g}), {100 * near:.0f} % within 10 % of the median (at most {100 * FLAT_SHARE:.0f} %)"
    )


def no_structure(sample: Sample) -> str:
    """Blocks of 20 mm differ no more than noise lets them."""
    value = block_variance_ratio(sample.inner, sample.places, sample.spacing_mm)
    if value is None or value >= STRUCTURE:
        return ""
    return f"variance between blocks of 20 mm over that within {value:.1f}, limit {STRUCTURE:g}"


def like_ct(sample: Sample) -> str:
    """The uptake follows the HU so closely that the PET is an image of the CT."""
    if sample.hu.shape[1] < _FEW:
        return ""
    correlation = rank_correlation(sample.hu)
    if abs(correlation) <= LIKE_CT:
        return ""
    return f"rank correlation of uptake and HU in the body {correlation:.2f}, limit {LIKE_CT:g}"


def mirrored(sample: Sample) -> str:
    """The uptake follows the CT better when it is mirrored."""
    if not sample.fits:
        return ""
    way = max(sample.fits, key=lambda name: sample.fits[name])
    if sample.fits[way] - sample.fits[""] <= MIRRORED:
        return ""
    return (
        f"the PET follows the CT better mirrored {way}: rank correlation {sample.fits[way]:.2f} instead of "
        f"{sample.fits['']:.2f}"
    )


def lungs(sample: Sample) -> str:
    """The lungs take up more than the soft tissue."""
    if min(sample.soft.size, sample.lung.size) < _FEW_FAR:
        return ""
    share = probability_above(sample.soft, sample.lung)
    return "" if share >= LUNGS else f"soft tissue is brighter than lung with probability {share:.2f}, limit {LUNGS:g}"


def seams(sample: Sample) -> str:
    """The uptake jumps at several planes: blocks of the volume do not belong together."""
    value = max((seam_ratio(steps) for steps in sample.steps), default=0.0)
    if value <= SEAMS:
        return ""
    return f"neighbouring planes differ {value:.1f} times as much as those beside them, limit {SEAMS:g}"


def seam_ratio(steps: npt.NDArray[np.float64]) -> float:
    """Third largest difference of neighbouring planes over the median of those around it; 0 for short series."""
    if len(steps) < 3 * _AROUND:
        return 0.0
    usual = ndimage.median_filter(steps, size=_AROUND, mode="nearest")
    floor = 0.25 * float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    ratio = steps / np.maximum(usual, floor) if floor > 0 else np.zeros_like(steps)
    return float(np.sort(ratio)[-3])


def outside_body(sample: Sample) -> str:
    """The uptake does not lie where the body is."""
    if sample.smooth_far.size < _FEW_FAR:
        return ""
    share = probability_above(sample.smooth_inner, sample.smooth_far)
    if share >= OUTSIDE:
        return ""
    whose = "of the CT" if sample.from_ct else "of its outline"
    return f"a voxel in the body {whose} is brighter than one outside with probability {share:.3f}, limit {OUTSIDE:g}"


def slices_unordered(sample: Sample) -> str:
    """Neighbouring slices are hardly more alike than distant ones."""
    if sample.order is None or sample.order >= ORDERED:
        return ""
    return f"order of the slices {sample.order:.2f} (1 in order, 0 shuffled), limit {ORDERED:g}"


def slice_order(uptake: FloatArray, spacing_mm: tuple[float, float, float]) -> float | None:
    """Likeness of neighbouring slices between that of distant ones (0) and that of each slice's best match (1).

    Likeness is the correlation of square roots after a Gaussian of 8 mm in the plane.

    Parameters
    ----------
    uptake
        Shape (slices, rows, columns), not negative.

    Returns
    -------
    float or None
        None with fewer than 10 slices that show something, or where all are alike.
    """
    top = float(np.percentile(uptake, TOP_PERCENTILE)) if uptake.size else 0.0
    sigma = [0.0, *(_SMOOTH_MM / 2.3548 / step for step in spacing_mm[1:])]
    smooth = ndimage.gaussian_filter(np.clip(uptake, 0.0, top), sigma).reshape(len(uptake), -1)
    rooted = np.sqrt(np.maximum(smooth, 0.0), dtype=np.float64)
    shown = rooted[rooted.std(axis=1) > _SHOWN * max(float(rooted.max(initial=0.0)), 1e-30)]
    if len(shown) < _ORDERED_FROM:
        return None
    alike = np.corrcoef(shown)
    apart = np.abs(np.subtract.outer(np.arange(len(alike)), np.arange(len(alike))))
    near, far = float(alike[apart == 1].mean()), float(alike[apart >= _FAR_SLICES].mean())
    best = float(np.where(apart == 0, -1.0, alike).max(axis=1).mean())
    return None if best - far < _LEAST_CONTRAST else (near - far) / (best - far)


def block_variance_ratio(
    values: Values, places: npt.NDArray[np.int32], spacing_mm: tuple[float, float, float]
) -> float | None:
    """F of a one-way analysis of variance of ranks over cubes of 20 mm; about 1 for shuffled voxels, None for few."""
    if not values.size:
        return None
    edge = np.maximum(np.round(_BLOCK_MM / np.asarray(spacing_mm)), 1).astype(np.int64)
    cubes = places // edge
    block = np.ravel_multi_index(tuple(cubes.T), tuple(cubes.max(axis=0) + 1))
    kept = np.bincount(block)[block] >= 4
    _, block = np.unique(block[kept], return_inverse=True)
    rank = stats.rankdata(values)[kept]
    number = int(block.max()) + 1 if block.size else 0
    if number < 4 or rank.size <= number:
        return None
    size, total = np.bincount(block), np.bincount(block, rank)
    means = total / size
    between = float((size * (means - rank.mean()) ** 2).sum()) / (number - 1)
    within = float(((rank - means[block]) ** 2).sum()) / (rank.size - number)
    return between / within if within > 0 else np.inf


def probability_above(these: Values, those: Values) -> float:
    """Probability that one of these is larger than one of those, ties half (the area under the ROC curve)."""
    a, b = _few(these), _few(those)
    rank = stats.rankdata(np.concatenate([a, b]))
    return float((rank[: a.size].sum() - a.size * (a.size + 1) / 2) / (a.size * b.size))


def rank_correlation(pairs: Values) -> float:
    """Spearman's correlation of pairs, shape (2, n)."""
    thin = max(1, pairs.shape[1] // _MOST)
    return _correlation(*(stats.rankdata(row[::thin]) for row in pairs))


def _correlation(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    return float(np.corrcoef(first, second)[0, 1]) if first.std() > 0 and second.std() > 0 else 0.0


def _few(values: Values) -> Values:
    return values[:: max(1, values.size // _MOST)]


def _joined(found: Sequence[Values]) -> Values:
    return np.concatenate(found) if found else np.zeros(0, np.float32)


_CHECKS: tuple[tuple[PlausibilityRule, Callable[[Sample], str]], ...] = (
    (PlausibilityRule.NO_VALUES, no_values),
    (PlausibilityRule.SATURATED, saturated),
    (PlausibilityRule.FLAT, flat),
    (PlausibilityRule.NO_STRUCTURE, no_structure),
    (PlausibilityRule.LIKE_CT, like_ct),
    (PlausibilityRule.OUTSIDE_BODY, outside_body),
    (PlausibilityRule.MIRRORED, mirrored),
    (PlausibilityRule.LUNGS, lungs),
    (PlausibilityRule.SEAMS, seams),
    (PlausibilityRule.SLICES_UNORDERED, slices_unordered),
)
_NEED_VALUES = frozenset(PlausibilityRule) - {
    PlausibilityRule.NO_VALUES, PlausibilityRule.SATURATED, PlausibilityRule.FLAT
}  # fmt: skip
