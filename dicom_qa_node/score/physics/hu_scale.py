"""Whether the values of a CT are Hounsfield units, from the images alone: by the peaks of air, fat and soft tissue.

A rescale that was lost, applied twice or mistyped, and values cut by a converter, leave a picture that looks right in
any viewer with an automatic window. Air lies at -1000 HU, fat near -100 HU and soft tissue near 40 HU on every scanner
(PS3.3 C.11.1.1.2; ICRU Report 44), so that their places and distances show the scale. Phantoms of water, acrylic or
polyethylene pass: their material takes the place of soft tissue.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy import ndimage, signal

from dicom_qa_node.score.physics.ct_sampling import block_mean
from dicom_qa_node.score.volume import FloatArray, Volume

__all__ = ["HuScale", "ScaleFault", "check_hu_scale"]

_SLICES = 24
_SAMPLE_MM = 1.6
_FEWEST_SAMPLES = 1500
_SMOOTH_HU = 10.0
_BINS = 1500
_SMALL_SHARE = 0.02

_AIR, _FAT_HU, _SOFT_HU = -1000.0, -105.0, 45.0
_AIR_HU = (-1070.0, -940.0)
_DENSE_HU = 900.0
_TISSUE_FROM_HU = -300.0
_CLEAR = 0.45
_MARGIN = 0.3
_FARTHEST_OFFSET_HU = 150.0
_SLOPE_TOLERANCE = 0.15
_FLOOR_HU = -900.0
_CEILING_HU = 600.0
_CEILING_SHARE = 3e-4
_CEILING_SPIKE = (4.0, 5000.0)
_BYTE = 255.0
_USUAL_FACTORS = (0.1, 0.5, 2.0, 10.0)
_SIMPLER = 0.15
_FOR_EACH = 0.1
_AIR_AT_MOST = 0.5
_BELOW_FAT_HU = 25.0
_WRAPPED = 30000.0


@dataclass(frozen=True, slots=True)
class _Kind:
    """Where a kind of material has its peak and how wide that is (full width at half maximum), in HU."""

    name: str
    low: float
    high: float
    narrowest: float
    widest: float
    weight: float


_KINDS = (
    _Kind("air", *_AIR_HU, 0.0, 150.0, 1.0),
    _Kind("foam", -940.0, -800.0, 0.0, 400.0, 0.7),
    _Kind("lung", -800.0, -550.0, 40.0, 400.0, 0.7),
    _Kind("fat", -150.0, -60.0, 3.0, 250.0, 1.0),
    _Kind("soft", -60.0, 150.0, 3.0, 300.0, 1.0),
    _Kind("contrast", 150.0, 400.0, 0.0, 400.0, 0.9),
)


class ScaleFault(StrEnum):
    """What became of the scale."""

    OFFSET = "offset"
    SLOPE = "slope"
    NEGATIVES = "negatives"
    WINDOW = "window"
    SIGN = "sign"


@dataclass(frozen=True, slots=True)
class HuScale:
    """What the images show about their scale.

    ``fault`` is None where nothing contradicts HU; ``proven`` says that air and tissue lie where they belong.
    ``sentence`` names the fault and its likely cause, ``evidence`` the peaks and limits found.
    """

    fault: ScaleFault | None
    proven: bool
    sentence: str = ""
    evidence: str = ""

    @property
    def reason(self) -> str:
        """The sentence as part of another one."""
        return self.sentence[:1].lower() + self.sentence[1:].rstrip(".")


@dataclass(frozen=True, slots=True)
class _Peak:
    """A peak of the histogram: its place and full width at half maximum in units of the values, its share (0-1)."""

    place: float
    width: float
    share: float


def _share(ascending: FloatArray, low: float, high: float) -> float:
    """Share (0-1) of ascending values between two values, both included."""
    first = np.searchsorted(ascending, np.float32(low), "left")
    last = np.searchsorted(ascending, np.float32(high), "right")
    return max(int(last - first), 0) / ascending.size


@dataclass(frozen=True, slots=True)
class _Limits:
    """Lowest and highest value, the share (0-1) of the pixels at each, and how far the highest stands out."""

    low: float
    high: float
    low_share: float
    high_share: float
    high_spike: float


@dataclass(frozen=True, slots=True)
class _Sample:
    """Ascending means over about 1.6 mm without the pixels at a lower limit, their peaks, the limits of the pixels."""

    values: FloatArray
    peaks: tuple[_Peak, ...]
    limits: _Limits

    def share(self, low: float, high: float) -> float:
        """Share (0-1) of the means between two values."""
        return _share(self.values, low, high)

    def peaks_in(self, low: float, high: float) -> list[_Peak]:
        """The peaks between two values, in ascending order."""
        return [peak for peak in self.peaks if low <= peak.place <= high]

    @property
    def evidence(self) -> str:
        """The peaks and limits in words."""
        peaks = ", ".join(f"{peak.place:.0f} ({100 * peak.share:.0f} %)" for peak in self.peaks[:6]) or "none"
        limits = self.limits
        return f"peaks at {peaks}; values {limits.low:.0f} to {limits.high:.0f}"


def check_hu_scale(volume: Volume) -> HuScale:
    """Compare the values of a CT with the HU scale; up to 24 slices are read.

    Parameters
    ----------
    volume
        CT whose voxels may be HU; its padding does not count.
    """
    sample = _sampled(volume)
    if sample is None:
        return HuScale(None, proven=False)
    for find in (_sign, _moved, _compressed, _cut, _impossible):
        found = find(sample)
        if found is not None:
            return found
    return HuScale(None, proven=_explained(sample, _Scale(1.0, 0.0)) >= _CLEAR)


def _sign(sample: _Sample) -> HuScale | None:
    share = sample.share(_WRAPPED, np.inf)
    if share < _SMALL_SHARE:
        return None
    sentence = (
        "The CT numbers are off: negative values stand as values above 30000, as a wrong Pixel Representation "
        "(0028,0103) leaves them."
    )
    return HuScale(ScaleFault.SIGN, False, sentence, f"{100 * share:.0f} % above {_WRAPPED:.0f}; {sample.evidence}")


def _moved(sample: _Sample) -> HuScale | None:
    """Another offset or slope explains the peaks, and HU do not."""
    own = _explained(sample, _Scale(1.0, 0.0))
    best = max(_candidates(sample), key=lambda scale: _plausible(sample, scale), default=None)
    if best is None or _explained(sample, best) < max(_CLEAR, own + _MARGIN):
        return None
    if abs(best.slope - 1.0) > _SLOPE_TOLERANCE:
        return _slope(best.slope, sample)
    return _offset(_fitted_offset(sample, best), sample)


def _plausible(sample: _Sample, scale: _Scale) -> float:
    """The explained share, and a little for each of air, fat and soft tissue that is among it."""
    explained = _explained(sample, scale)
    return explained + _FOR_EACH * len(_anchors(sample, scale)) if explained > 0 else 0.0


def _anchors(sample: _Sample, scale: _Scale) -> dict[float, _Peak]:
    """The strongest peak near the HU of each of air, fat and soft tissue, by that HU."""
    found: dict[float, _Peak] = {}
    for hu, reach in ((_AIR, 40.0), (_FAT_HU, 30.0), (_SOFT_HU, 60.0)):
        near = [peak for peak in sample.peaks if abs((peak.place - scale.offset) / scale.slope - hu) <= reach]
        if near:
            found[hu] = max(near, key=lambda peak: peak.share)
    return found


def _fitted_offset(sample: _Sample, scale: _Scale) -> float:
    """The offset at slope 1: by air, whose HU varies least, else by fat and soft tissue."""
    anchors = _anchors(sample, scale)
    if _AIR in anchors:
        return anchors[_AIR].place - _AIR
    return float(np.mean([peak.place - hu for hu, peak in anchors.items()])) if anchors else scale.offset


def _cut(sample: _Sample) -> HuScale | None:
    """Values cut at a lower limit above that of lungs, or at an upper one below that of bone."""
    limits = sample.limits
    floor = limits.low > _FLOOR_HU and limits.low_share >= _SMALL_SHARE
    spike = _CEILING_SPIKE[0] <= limits.high_spike <= _CEILING_SPIKE[1]
    ceiling = limits.high < _CEILING_HU and limits.high_share >= _CEILING_SHARE and spike
    if not (floor or ceiling):
        return None
    shares = f"{100 * limits.low_share:.1f} % at the lowest, {100 * limits.high_share:.2f} % at the highest value"
    evidence = f"{shares}; {sample.evidence}"
    if abs(limits.low) <= 1.0 and limits.high == _BYTE:
        sentence = "The values are those of a display (0 to 255), not CT numbers."
        return HuScale(ScaleFault.WINDOW, False, sentence, evidence)
    ceiling = ceiling or (floor and limits.high < _BYTE)
    if abs(limits.low) <= 1.0 and not ceiling:
        sentence = "The CT numbers are off: all negative values were cut off at 0, and with them air, lungs and fat."
        return HuScale(ScaleFault.NEGATIVES, False, sentence, evidence)
    where = f"below {limits.low:.0f} HU" if floor else ""
    where += " and " if floor and ceiling else ""
    where += f"above {limits.high:.0f} HU" if ceiling else ""
    sentence = f"The CT numbers were cut off {where}, as saving a display window does."
    return HuScale(ScaleFault.WINDOW, False, sentence, evidence)


def _compressed(sample: _Sample) -> HuScale | None:
    """Air lies at its place and nothing reaches the tissues: a slope below 1 about an intercept near that of air."""
    light, rest = sample.share(-900.0, _TISSUE_FROM_HU), sample.share(_TISSUE_FROM_HU, np.inf)
    peaks = [peak for peak in sample.peaks if -900.0 < peak.place < _TISSUE_FROM_HU]
    if light < 0.1 or rest >= 0.05 or not peaks or sample.peaks[0].place > _AIR_HU[1]:
        return None
    return _slope((peaks[-1].place + 1024.0) / (_SOFT_HU + 1024.0), sample)


def _impossible(sample: _Sample) -> HuScale | None:
    """Much lies where nothing in a patient does, and no single offset or slope explains it."""
    strong = [peak for peak in sample.peaks if peak.share >= 0.03]
    below, above = sample.share(-np.inf, _AIR_HU[0] - 30.0), sample.share(600.0, np.inf)
    if not strong or max(below, above) < 0.3:
        return None
    return _offset(strong[-1].place - _SOFT_HU, sample)


@dataclass(frozen=True, slots=True)
class _Scale:
    """How stored values follow from HU: ``slope * HU + offset``."""

    slope: float
    offset: float

    @classmethod
    def through(cls, low: float, low_hu: float, high: float, high_hu: float) -> _Scale:
        """The scale that gives two places their HU."""
        slope = (high - low) / (high_hu - low_hu)
        return cls(slope, low - slope * low_hu)


def _candidates(sample: _Sample) -> Iterator[_Scale]:
    """Scales under which the peaks could be air, fat and soft tissue."""
    peaks = sample.peaks
    for peak in peaks:
        for hu in (_SOFT_HU, _FAT_HU, _AIR):
            yield _Scale(1.0, peak.place - hu)
    for first, low in enumerate(peaks):
        for high in peaks[first + 1 :]:
            yield _Scale.through(low.place, _AIR, high.place, _SOFT_HU)
            yield _Scale.through(low.place, _AIR, high.place, _FAT_HU)
            pair = _Scale.through(low.place, _FAT_HU, high.place, _SOFT_HU)
            if any(abs(pair.slope / factor - 1.0) < 0.12 for factor in _USUAL_FACTORS):
                yield pair


def _explained(sample: _Sample, scale: _Scale) -> float:
    """Share (0-1) of the peaks that lie where a patient or phantom has some; 0 for less than two of air, fat and soft.

    Lungs count by a part, for they may be anywhere between air and fat; a peak too narrow or too wide for its material,
    and what lies below air or between fat and lung, count against it.
    """
    shares = dict.fromkeys(("air", "fat", "soft", "other"), 0.0)
    good = bad = 0.0
    for peak in sample.peaks:
        hu, width = (peak.place - scale.offset) / scale.slope, peak.width / scale.slope
        kind = next((kind for kind in _KINDS if kind.low <= hu <= kind.high), None)
        fits = kind is not None and kind.narrowest <= width <= kind.widest
        if kind is not None and kind.name == "fat" and sample.limits.low > peak.place - _BELOW_FAT_HU * scale.slope:
            fits = False
        name = kind.name if fits and kind is not None else "other"
        shares[name if name in shares else "other"] += peak.share
        if name == "air":
            continue
        if kind is None:
            # bone and metal have no peak this high
            bad += peak.share * (3.0 if hu > _DENSE_HU else 1.0)
        else:
            good += kind.weight * peak.share if fits else -0.5 * peak.share
    body = shares["fat"] + shares["soft"] + shares["other"]
    # most of a picture may be air, and air alone does not show a slope
    air = min(shares["air"], _AIR_AT_MOST * body)
    below = sample.share(-np.inf, scale.slope * (_AIR_HU[0] - 20.0) + scale.offset)
    identity = scale.slope == 1.0 and scale.offset == 0.0
    found = sum(shares[name] > 0 for name in ("air", "fat", "soft"))
    if body == 0.0:
        return 1.0 if identity and shares["air"] > 0 else 0.0
    if found < 2 and not identity:
        return 0.0
    penalty = 0.0 if abs(scale.slope - 1.0) <= _SLOPE_TOLERANCE else _SIMPLER
    return max((good - bad + air) / (body + air) - below - penalty, 0.0)


def _offset(offset_hu: float, sample: _Sample) -> HuScale | None:
    if abs(offset_hu) <= _FARTHEST_OFFSET_HU:
        return None
    way = "high" if offset_hu > 0 else "low"
    cause = ""
    if 900.0 <= offset_hu <= 1150.0:
        cause = ", as a lost Rescale Intercept (0028,1052) leaves them"
    elif -1150.0 <= offset_hu <= -900.0:
        cause = ", as a Rescale Intercept (0028,1052) that was applied twice leaves them"
    sentence = f"The CT numbers are off: all are about {abs(offset_hu):.0f} HU too {way}{cause}."
    return HuScale(ScaleFault.OFFSET, False, sentence, sample.evidence)


def _slope(factor: float, sample: _Sample) -> HuScale | None:
    sentence = (
        f"The CT numbers are off: air, fat and soft tissue are {factor:.2g} times as far apart as they are in HU, "
        "as a wrong Rescale Slope (0028,1053) leaves them."
    )
    return HuScale(ScaleFault.SLOPE, False, sentence, sample.evidence)


def _sampled(volume: Volume) -> _Sample | None:
    planes = list(_planes(volume))
    limits = _limits([plane if mask is None else plane[mask] for plane, mask in planes])
    if limits is None:
        return None
    factor = max(1, round(_SAMPLE_MM / min(volume.spacing_mm[1:])))
    means = []
    for plane, mask in planes:
        inside = np.ones(plane.shape, np.bool_) if mask is None else mask
        if limits.low_share >= _SMALL_SHARE:
            inside = inside & (plane > limits.low)
        means.append(block_mean(plane, (factor, factor))[_whole_blocks(inside, factor)])
    values = np.sort(np.concatenate(means))
    if values.size < _FEWEST_SAMPLES:
        return None
    return _Sample(values, _peaks(values), limits)


def _whole_blocks(mask: npt.NDArray[np.bool_], factor: int) -> npt.NDArray[np.bool_]:
    """Return which blocks of ``factor`` x ``factor`` pixels lie in the mask whole."""
    rows, columns = (length // factor * factor for length in mask.shape)
    found = np.ones((rows // factor, columns // factor), np.bool_)
    for row, column in np.ndindex(factor, factor):
        found &= mask[row:rows:factor, column:columns:factor]
    return found


def _planes(volume: Volume) -> Iterator[tuple[FloatArray, npt.NDArray[np.bool_] | None]]:
    count = len(volume.positions_mm)
    for index in sorted({round(place) for place in np.linspace(0, count - 1, min(count, _SLICES))}):
        plane = np.asarray(volume.voxels[index], np.float32)
        yield plane, _scanned(plane, None if volume.valid is None else np.asarray(volume.valid[index]))


def _scanned(plane: FloatArray, valid: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_] | None:
    """Where a slice was scanned, None: all of it.

    Padding has one value; other values below -1500 may be air on a shifted scale.
    """
    if valid is None:
        return None
    outside = plane[~valid]
    if outside.size == 0:
        return None
    values, counts = np.unique(outside, return_counts=True)
    if counts.max() < 0.3 * outside.size:
        return None
    return np.asarray(valid | ~np.isin(plane, values[counts >= 0.05 * outside.size]))


def _limits(planes: list[FloatArray]) -> _Limits | None:
    filled = [plane for plane in planes if plane.size]
    if not filled:
        return None
    size = sum(plane.size for plane in filled)
    low, high = float(min(plane.min() for plane in filled)), float(max(plane.max() for plane in filled))
    at_low = sum(int(np.count_nonzero(plane == low)) for plane in filled) / size
    at_high = sum(int(np.count_nonzero(plane == high)) for plane in filled) / size
    near = (sum(int(np.count_nonzero(plane >= high - 20.0)) for plane in filled) / size - at_high) / 20.0
    return _Limits(low, high, at_low, at_high, at_high / max(near, 1e-9))


def _peaks(values: FloatArray) -> tuple[_Peak, ...]:
    low, high = (float(values[round(share * (values.size - 1))]) for share in (0.001, 0.999))
    bin_hu = max((high - low) / _BINS, 0.5)
    edges = np.arange(low - 40.0 * bin_hu, high + 40.0 * bin_hu, bin_hu)
    counts = np.diff(np.searchsorted(values, edges.astype(np.float32)))
    smooth_hu = min(_SMOOTH_HU, 0.01 * (high - low))
    smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), max(smooth_hu / bin_hu, 1.0))
    found, _ = signal.find_peaks(smooth, prominence=0.02 * smooth.max())
    widths = signal.peak_widths(smooth, found, rel_height=0.5)[0] * bin_hu
    peaks = []
    for index, width in zip(found, widths, strict=True):
        place = float(edges[index] + 0.5 * bin_hu)
        reach = max(width, 2.0 * smooth_hu)
        own = np.sqrt(max(width**2 - (2.355 * smooth_hu) ** 2, 0.0))
        peaks.append(_Peak(place, float(own), _share(values, place - reach, place + reach)))
    return tuple(peak for peak in peaks if peak.share >= _SMALL_SHARE)
