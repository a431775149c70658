"""Resolution of a CT volume from the patient's own skin: the edge between air and the body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from dicom_qa_node.dicom_io.headers import text
from dicom_qa_node.domain.results import Measurement
from dicom_qa_node.score.physics.ct_quantities import CT_QUANTITIES
from dicom_qa_node.score.physics.ct_sampling import BODY_HU, BoolArray, CtSample, CtSlice, slice_of
from dicom_qa_node.score.volume import FloatArray

__all__ = ["SkinEdge", "edge_f50", "edge_measurements", "half_modulation", "skin_edge", "skin_edge_f50"]

Profile = npt.NDArray[np.float64]

_RAYS = 720
_REACH_MM = 10.0
_STEP_MM = 0.25
_SMOOTH_ARC_MM = 6.0
_STEEPEST = 0.6
"""Tangent of the largest angle between ray and skin normal: 31 degrees."""
_SECTORS = 5
_FEW_RAYS = 150
_MOST_SPREAD = 0.25
"""Median deviation of the slices from their median, above which they do not show one resolution."""
_CLOTH_WIDTH = 1.4
"""Rays whose edge is wider than this multiple of the sharpest quarter's end at clothing or a cushion."""


@dataclass(frozen=True, slots=True)
class SkinEdge:
    """The skin of one slice, seen along rays from the middle of the body, shape (rays,) each.

    ``radius_mm`` and ``cosine`` (between ray and skin normal) describe the smoothed skin, ``width_mm`` is the distance
    along the normal over which the profile falls from 75 to 25 % of the edge, ``clear`` marks rays with air outside
    and tissue inside; ``usable`` those of them whose profile falls steadily.
    """

    centre: tuple[float, float]
    radius_mm: Profile
    cosine: Profile
    width_mm: Profile
    clear: BoolArray
    usable: BoolArray


def skin_edge(part: CtSlice) -> SkinEdge | None:
    """Find the skin of one slice; None where no body stands free in the field."""
    if np.count_nonzero(part.body) * part.mean_pixel_mm**2 < 2000.0:
        return None
    centre = ndimage.center_of_mass(part.body)
    radius, profiles, offsets = _profiles(part, centre)
    crossing = _crossing(profiles, offsets, BODY_HU)
    if np.count_nonzero(np.isfinite(crossing)) < _FEW_RAYS / 5:
        return None
    skin = radius + crossing
    window = max(5, round(_SMOOTH_ARC_MM / (np.nanmedian(skin) * 2 * np.pi / _RAYS)) // 2 * 2 + 1)
    smooth = ndimage.gaussian_filter1d(np.where(np.isfinite(skin), skin, radius), window / 2.5, mode="wrap")
    slope = np.gradient(np.concatenate([smooth[-1:], smooth, smooth[:1]]))[1:-1] / (smooth * 2 * np.pi / _RAYS)
    clear = np.isfinite(crossing) & (np.abs(skin - smooth) < 0.5) & (np.abs(slope) < _STEEPEST)
    clear &= _open_edge(profiles, offsets, crossing)
    cosine = 1.0 / np.sqrt(1.0 + slope**2)
    width = (_crossing(profiles, offsets, -750.0) - _crossing(profiles, offsets, -250.0)) * cosine
    usable = clear & _steady(profiles, offsets, crossing)
    return SkinEdge((float(centre[0]), float(centre[1])), smooth, cosine, width, clear, usable)


def edge_measurements(view: CtSample, edges: tuple[SkinEdge | None, ...]) -> tuple[Measurement, ...]:
    """Measure the sharpness of the skin edge over all slices of a view.

    * ``skin_edge_f50`` (1/mm, target): frequency at which the modulation transfer of the air-skin edge is one half
      (Sanders, Hurwitz & Samei 2016, Med Phys 43:5330), slice by slice; the median, unless it lies above the Nyquist
      frequency of the pixels or the slices disagree. Only the outer half of the line spread is used, mirrored:
      inside, the step from skin to fat would add an edge of its own.
    * ``motion_edge_index`` (1, lower is better): edge width (75 to 25 %, lower quartile) in the widest of five
      sectors of the skin away from the table, over that in the sharpest; 1 when sharp all round, more where a
      moving wall is blurred.
    """
    pairs = [(part, edge) for part, edge in zip(view.slices, edges, strict=True) if edge is not None]
    return _f50(view, pairs), _motion(view, pairs)


def _profiles(part: CtSlice, centre: tuple[float, ...]) -> tuple[Profile, npt.NDArray[np.float32], Profile]:
    """Radius of the body mask per ray in mm, and HU along each ray around it, shape (rays, offsets)."""
    angle = np.arange(_RAYS) * 2 * np.pi / _RAYS
    sine, cosine = np.sin(angle) / part.pixel_mm[0], np.cos(angle) / part.pixel_mm[1]
    steps = np.arange(0.0, np.hypot(*part.hu.shape) * part.mean_pixel_mm, 2.0)
    rows = np.rint(centre[0] + np.outer(sine, steps)).astype(np.intp)
    columns = np.rint(centre[1] + np.outer(cosine, steps)).astype(np.intp)
    inside = (rows >= 0) & (columns >= 0) & (rows < part.hu.shape[0]) & (columns < part.hu.shape[1])
    rows[~inside] = columns[~inside] = 0
    body = part.body[rows, columns] & inside
    radius = steps[body.shape[1] - 1 - np.argmax(body[:, ::-1], axis=1)]
    offsets = np.arange(-_REACH_MM, _REACH_MM + _STEP_MM, _STEP_MM)
    along = radius[:, None] + offsets[None, :]
    where = np.stack([centre[0] + sine[:, None] * along, centre[1] + cosine[:, None] * along])
    values = ndimage.map_coordinates(part.hu, where, order=1, mode="constant", cval=np.nan)
    return radius, values, offsets


def _crossing(profiles: npt.NDArray[np.float32], offsets: Profile, level: float) -> Profile:
    """Outermost offset at which each profile falls below ``level`` (linear interpolation); NaN where it does not."""
    above = profiles >= level
    last = above.shape[1] - 1 - np.argmax(above[:, ::-1], axis=1)
    ok = above.any(axis=1) & (last < above.shape[1] - 1)
    last = np.minimum(last, above.shape[1] - 2)
    ray = np.arange(len(profiles))
    inner, outer = profiles[ray, last], profiles[ray, last + 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = (inner - level) / (inner - outer)
    return np.where(ok & np.isfinite(part), offsets[last] + part * _STEP_MM, np.nan)


def _shifted(
    profiles: npt.NDArray[np.float32], offsets: Profile, crossing: Profile, at: Profile
) -> npt.NDArray[np.float64]:
    """Profiles at distances ``at`` from their own crossing, shape (rays, at)."""
    start = np.where(np.isfinite(crossing), crossing, 0.0)
    position = (start[:, None] + at[None, :] - offsets[0]) / _STEP_MM
    index = np.clip(np.rint(position), 0, offsets.size - 1).astype(np.intp)
    return np.take_along_axis(profiles, index, axis=1).astype(np.float64)


def _open_edge(profiles: npt.NDArray[np.float32], offsets: Profile, crossing: Profile) -> BoolArray:
    """True where there is air from 3.5 to 8 mm outside and tissue from 2 to 4 mm inside."""
    outside = _shifted(profiles, offsets, crossing, np.arange(3.5, 8.0, 0.5))
    inside = _shifted(profiles, offsets, crossing, np.arange(-4.0, -2.0, 0.5))
    return np.asarray(
        (np.mean(outside, axis=1) < -950.0) & (np.max(outside, axis=1) < -800.0) & (inside.mean(axis=1) > -250.0)
    )


def _steady(profiles: npt.NDArray[np.float32], offsets: Profile, crossing: Profile) -> BoolArray:
    """True where the profile falls outwards without rising by more than a tenth of the edge."""
    near = _shifted(profiles, offsets, crossing, np.arange(-1.5, 3.0, 0.5))
    return np.asarray(np.max(np.diff(near, axis=1), axis=1) < 100.0)


def _edge_spread(part: CtSlice, edge: SkinEdge, bin_mm: float) -> tuple[Profile, Profile]:
    """Sum and number of the pixels by their distance from the skin, bins of ``bin_mm`` over +-10 mm."""
    rows, columns = np.nonzero(part.skin)
    y = (rows - edge.centre[0]) * part.pixel_mm[0]
    x = (columns - edge.centre[1]) * part.pixel_mm[1]
    away = np.hypot(y, x)
    position = np.arctan2(y, x) % (2 * np.pi) * (_RAYS / (2 * np.pi))
    lower = position.astype(np.intp) % _RAYS
    share = position - np.floor(position)
    upper = (lower + 1) % _RAYS
    skin = edge.radius_mm[lower] * (1.0 - share) + edge.radius_mm[upper] * share
    distance = (away - skin) * edge.cosine[lower]
    chosen = edge.usable[lower] & edge.usable[upper] & (np.abs(distance) < _REACH_MM)
    index = ((distance[chosen] + _REACH_MM) / bin_mm).astype(np.intp)
    length = int(np.ceil(2 * _REACH_MM / bin_mm)) + 1
    values = part.hu[rows[chosen], columns[chosen]].astype(np.float64)
    total, number = np.bincount(index, values, length), np.bincount(index, minlength=length)
    return np.asarray(total, np.float64), np.asarray(number, np.float64)


def half_modulation(spread: Profile, step_mm: float) -> float | None:
    """Frequency in 1/mm at which the modulation transfer of an edge falls to one half; None if it is not a clear edge.

    Parameters
    ----------
    spread
        Mean value by distance from the edge, rising index outwards, step ``step_mm``.
    """
    line = -np.gradient(ndimage.gaussian_filter1d(spread, 1.0))
    peak = int(np.argmax(line))
    above = np.flatnonzero(line[peak:] < 0.5 * line[peak])
    if above.size == 0 or line[peak] <= 0:
        return None
    half = float(above[0]) * step_mm
    centre = _centre(line, peak, max(2, round(0.6 * half / step_mm)))
    distance = np.arange(0.0, 6.0 * half, step_mm)
    outer = np.interp(centre + distance / step_mm, np.arange(line.size), line, right=0.0)
    outer *= _taper(distance, 3.0 * half, 6.0 * half)
    mirrored = np.concatenate([outer, np.zeros(8192 - 2 * outer.size + 1), outer[:0:-1]])
    transfer = np.abs(fft.rfft(mirrored))
    transfer /= transfer[0]
    frequency = fft.rfftfreq(mirrored.size, step_mm)
    # undo the smoothing (SD of one bin) and the central difference
    transfer /= np.exp(-2 * (np.pi * frequency * step_mm) ** 2) * np.sinc(2 * frequency * step_mm)
    below = int(np.argmax(transfer < 0.5))
    if below == 0:
        return None
    part = (transfer[below - 1] - 0.5) / (transfer[below - 1] - transfer[below])
    return float(frequency[below - 1] + part * (frequency[below] - frequency[below - 1]))


def _centre(line: Profile, peak: int, reach: int) -> float:
    """Position of a peak by a parabola over ``reach`` samples to each side."""
    index = np.arange(max(peak - reach, 0), min(peak + reach + 1, line.size))
    a, b, _ = np.polyfit(index - peak, line[index], 2)
    return peak + float(np.clip(-b / (2 * a), -reach, reach)) if a < 0 else float(peak)


def _taper(distance: Profile, flat: float, end: float) -> Profile:
    """Weight 1 up to ``flat``, then a Hann slope to 0 at ``end``."""
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * np.clip((distance - flat) / (end - flat), 0.0, 1.0)))


def _f50(view: CtSample, pairs: list[tuple[CtSlice, SkinEdge]]) -> Measurement:
    """Median of the slices; withheld where it lies above the Nyquist frequency or the slices disagree."""
    name = "skin_edge_f50"
    pairs = _bare(pairs)
    rays = sum(np.count_nonzero(edge.usable) for _, edge in pairs)
    if rays < _FEW_RAYS:
        return CT_QUANTITIES.absent(name, "too little free skin against air in the field")
    groups = _groups(pairs)
    found = np.array([value for group in groups if (value := edge_f50(group)) is not None])
    if found.size == 0:
        return CT_QUANTITIES.absent(name, "the skin shows no clear edge")
    nyquist = 0.5 / view.slices[0].mean_pixel_mm
    median = float(np.median(found))
    below = found[found <= nyquist]
    if below.size < max(1, 0.5 * found.size):
        reason = f"{median:.2f} / mm lies above the pixel Nyquist frequency of {nyquist:.2f} / mm"
        return CT_QUANTITIES.absent(name, f"the edge is not the skin of a scanned body: {reason}")
    median = float(np.median(below))
    spread = float(np.median(np.abs(below - median))) / median
    if below.size >= 3 and spread > _MOST_SPREAD:
        low, high = float(below.min()), float(below.max())
        reason = f"the slices disagree: {low:.2f} to {high:.2f} / mm, median {median:.2f} / mm"
        return CT_QUANTITIES.absent(name, reason)
    used = "slices" if len(groups) == len(pairs) else "groups of slices"
    detail = f"{rays} rays, median of {below.size} {used}; pixel Nyquist frequency {nyquist:.2f} 1/mm"
    return CT_QUANTITIES.value(name, median, detail)


def _groups(pairs: list[tuple[CtSlice, SkinEdge]]) -> list[list[tuple[CtSlice, SkinEdge]]]:
    """Slices one by one, or as many neighbours together as hold enough rays for an edge."""
    groups: list[list[tuple[CtSlice, SkinEdge]]] = []
    rays = _FEW_RAYS
    for pair in pairs:
        if rays >= _FEW_RAYS:
            groups.append([])
            rays = 0
        groups[-1].append(pair)
        rays += int(np.count_nonzero(pair[1].usable))
    if rays < _FEW_RAYS and len(groups) > 1:
        last = groups.pop()
        groups[-1] += last
    return groups


def edge_f50(pairs: Sequence[tuple[CtSlice, SkinEdge]]) -> float | None:
    """Return the frequency in 1/mm at which the modulation transfer of the skin of some slices is one half."""
    bin_mm = 0.1 * pairs[0][0].mean_pixel_mm
    sums = [_edge_spread(part, edge, bin_mm) for part, edge in pairs]
    total, number = (np.sum(column, axis=0) for column in zip(*sums, strict=True))
    filled = np.flatnonzero(number > 0)
    if filled.size < 0.5 * number.size:
        return None
    spread = np.interp(np.arange(number.size), filled, total[filled] / number[filled])
    return half_modulation(spread, bin_mm)


def skin_edge_f50(hu: FloatArray, pixel_mm: tuple[float, float]) -> float | None:
    """Return the sharpness of the skin in one axial CT slice.

    The frequency in 1/mm at which the modulation transfer of the edge between air and skin is one half (Sanders,
    Hurwitz & Samei 2016, Med Phys 43:5330); None where no skin stands free, or above the pixels' Nyquist frequency.

    Parameters
    ----------
    hu
        CT numbers, shape (rows, columns).
    pixel_mm
        Distance of neighbouring rows and columns in mm.

    Examples
    --------
    A water cylinder of 100 mm radius, blurred by a Gaussian of SD 0.8 mm: ``f50 = 0.1874 / 0.8``

    >>> y, x = np.ogrid[-256:256, -256:256]
    >>> edge = ndimage.gaussian_filter(np.where(np.hypot(x, y) < 200, 0.0, -1000.0), 0.8 / 0.5)
    >>> found = skin_edge_f50(edge, (0.5, 0.5))
    >>> found is not None and abs(found / (0.1874 / 0.8) - 1) < 0.1
    True
    """
    part = slice_of(np.asarray(hu, np.float32), pixel_mm)
    edge = skin_edge(part)
    if edge is None or np.count_nonzero(edge.usable) < _FEW_RAYS:
        return None
    found = edge_f50([(part, edge)])
    return found if found is not None and found <= 0.5 / part.mean_pixel_mm else None


def _bare(pairs: list[tuple[CtSlice, SkinEdge]]) -> list[tuple[CtSlice, SkinEdge]]:
    """Leave out the rays that end at clothing; of many slices keep eight."""
    widths = np.concatenate([edge.width_mm[edge.usable] for _, edge in pairs] or [np.zeros(0)])
    widths = widths[np.isfinite(widths)]
    if widths.size == 0:
        return []
    limit = _CLOTH_WIDTH * float(np.percentile(widths, 25))
    kept = [(part, replace(edge, usable=edge.usable & (edge.width_mm < limit))) for part, edge in pairs]
    kept = [pair for pair in kept if pair[1].usable.any()]
    return kept[:: max(1, len(kept) // 8)]


def _motion(view: CtSample, pairs: list[tuple[CtSlice, SkinEdge]]) -> Measurement:
    if not view.axial:
        return CT_QUANTITIES.absent("motion_edge_index", "the slices are not axial")
    sector = _sector(view)
    widths = []
    for number in range(_SECTORS):
        values = np.concatenate([e.width_mm[(sector == number) & e.clear] for _, e in pairs] or [np.zeros(0)])
        values = values[np.isfinite(values)]
        if values.size >= 40:
            widths.append(float(np.percentile(values, 25)))
    if len(widths) < 3:
        return CT_QUANTITIES.absent("motion_edge_index", "too little free skin against air in the field")
    return CT_QUANTITIES.value(
        "motion_edge_index", max(widths) / min(widths), f"{len(widths)} of {_SECTORS} sectors seen"
    )


def _sector(view: CtSample) -> npt.NDArray[np.intp]:
    """Number of the sector that each ray belongs to, -1 for the half that lies towards the table."""
    angle = np.arange(_RAYS) * 2 * np.pi / _RAYS
    direction = view.volume.direction
    away = np.outer(np.sin(angle), direction[:, 1]) + np.outer(np.cos(angle), direction[:, 2])
    # patient coordinates: x to the left, y to the back (PS3.3 C.7.6.2.1.1)
    position = text(view.volume.header, "PatientPosition").upper()[2:]
    up = {"P": (0.0, 1.0), "DR": (1.0, 0.0), "DL": (-1.0, 0.0)}.get(position, (0.0, -1.0))
    height = away[:, 0] * up[0] + away[:, 1] * up[1]
    side = away[:, 0] * up[1] - away[:, 1] * up[0]
    turn = np.clip(np.arctan2(height, side) / np.pi, 0.0, 0.9999)
    return np.where(height > 0, (turn * _SECTORS).astype(np.intp), -1)
