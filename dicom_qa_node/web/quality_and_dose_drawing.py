"""Scatter plots of quality, dose and size as SVG coordinates: axes with round ticks, dots by size, curves and bands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dicom_qa_node.charts.quality_and_dose import (
    SIZE_GROUPS_MM,
    BandStep,
    Point,
    band_of,
    dose_constant,
    size_curve,
    values_of,
)
from dicom_qa_node.domain.reference_levels import ReferenceLevel
from dicom_qa_node.web.chart_drawing import round_values

__all__ = ["DRAWN", "HEIGHT", "WIDTH", "Dot", "Plot", "noise_against_dose", "value_against_size"]

WIDTH, HEIGHT = 480.0, 330.0
DRAWN = 500
"""Series drawn in one plot: the latest. What is usual is computed from all that were read."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 8.0, 8.0, 40.0
_STEPS = 60
_TICKS = 6


@dataclass(frozen=True, slots=True)
class Dot:
    """One series at its place; ``group`` is the class of its size, ``text`` its title."""

    x: float
    y: float
    group: str
    text: str
    series_instance_uid: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A tick of an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Label:
    """Words within a plot; ``anchor`` is start or end."""

    x: float
    y: float
    anchor: str
    text: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot in a box of 480 by 330; lines and bands are lists of SVG points, by their class."""

    x_title: str
    y_title: str
    dots: tuple[Dot, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[tuple[str, str, str], ...] = ()
    band: str = ""
    labels: tuple[Label, ...] = ()

    @property
    def left(self) -> float:
        """Where the plot area begins."""
        return _LEFT

    @property
    def bottom(self) -> float:
        """Where the plot area ends below."""
        return HEIGHT - _BOTTOM


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    logarithmic: bool
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(value)
        return self.begin + (at - low) / (high - low) * (self.end - self.begin)

    def inside(self, value: float) -> bool:
        """Whether a value lies on the axis."""
        return self.low <= value <= self.high

    def ticks(self) -> tuple[Tick, ...]:
        """Return round values along the axis."""
        found = (
            _logarithmic_ticks(self.low, self.high) if self.logarithmic else round_values(self.low, self.high, _TICKS)
        )
        return tuple(Tick(self(value), f"{value:g}") for value in found)


def noise_against_dose(points: Sequence[Point], dose: str, dose_title: str) -> Plot | None:
    """Draw noise against dose on logarithmic axes with noise = k dose^-1/2 through the median, and the quadrants.

    None without a series that has both.
    """
    drawn = _usable(points, dose, "global_noise_level")
    if not drawn:
        return None
    doses, noises = values_of(drawn, dose), values_of(drawn, "global_noise_level")
    x, y = _axis(doses, horizontal=True, logarithmic=True), _axis(noises, horizontal=False, logarithmic=True)
    lines: list[tuple[str, str, str]] = []
    constant = dose_constant(points, dose)
    labels: tuple[Label, ...] = ()
    if constant is not None:
        middle_dose, middle_noise = float(np.median(doses)), float(np.median(noises))
        along = np.geomspace(x.low, x.high, _STEPS)
        lines.append(("curve", _path(along, constant / np.sqrt(along), x, y), f"noise = {constant:.3g} / √dose"))
        lines.append(("middle", _path([middle_dose] * 2, [y.low, y.high], x, y), f"median dose {middle_dose:.3g} mGy"))
        lines.append(
            ("middle", _path([x.low, x.high], [middle_noise] * 2, x, y), f"median noise {middle_noise:.3g} HU")
        )
        labels = _quadrants()
    dots = tuple(_dot(point, x, y, dose, "global_noise_level") for point in drawn[-DRAWN:])
    return Plot(dose_title, "Noise (HU)", dots, x.ticks(), y.ticks(), tuple(lines), labels=labels)


def value_against_size(
    points: Sequence[Point], quantity: str, title: str, level: ReferenceLevel | None = None
) -> Plot | None:
    """Draw a quantity against the water-equivalent diameter with median and quartile band, size curve and level."""
    drawn = _usable(points, "water_equivalent_diameter", quantity)
    if not drawn:
        return None
    sizes, values = values_of(drawn, "water_equivalent_diameter"), values_of(drawn, quantity)
    x, y = _axis(sizes, horizontal=True), _axis(values, horizontal=False)
    lines: list[tuple[str, str, str]] = []
    steps = band_of(points, quantity)
    if len(steps) > 1:
        lines.append(("median", _path([s.diameter_mm for s in steps], [s.median for s in steps], x, y), "median"))
    curve = size_curve(points, quantity)
    if curve is not None:
        along = np.linspace(curve.low_mm, curve.high_mm, _STEPS)
        lines.append(("curve", _path(along, curve.at(along), x, y), f"size curve of {curve.count} series"))
    if level is not None:
        along = np.linspace(level.low_mm, level.high_mm, _STEPS)
        at = [level.at(float(value)) or math.nan for value in along]
        lines.append(("level", _path(along, at, x, y), f"reference level, revision {level.revision}"))
    dots = tuple(_dot(point, x, y, "water_equivalent_diameter", quantity) for point in drawn[-DRAWN:])
    band = _band(steps, x, y) if len(steps) > 1 else ""
    return Plot("Water-equivalent diameter (mm)", title, dots, x.ticks(), y.ticks(), tuple(lines), band)


def _usable(points: Sequence[Point], *quantities: str) -> list[Point]:
    """Return the series that have every quantity, above zero."""
    return [point for point in points if all((getattr(point, name) or 0.0) > 0.0 for name in quantities)]


def _axis(values: np.ndarray, *, horizontal: bool, logarithmic: bool = False) -> _Axis:
    low, high = float(values.min()), float(values.max())
    if logarithmic:
        spare = max((high / low) ** 0.04, 1.05)
        low, high = low / spare, high * spare
    else:
        spare = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
        low, high = max(0.0, low - spare), high + spare
    ends = (_LEFT, WIDTH - _RIGHT) if horizontal else (HEIGHT - _BOTTOM, _TOP)
    return _Axis(low, high, logarithmic, *ends)


def _logarithmic_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1.0, 2.0, 5.0)]
    inside = [value for value in found if low <= value <= high]
    return inside if len(inside) > 1 else round_values(low, high, _TICKS)


def _path(across: Sequence[float] | np.ndarray, up: Sequence[float] | np.ndarray, x: _Axis, y: _Axis) -> str:
    pairs = ((float(a), float(b)) for a, b in zip(across, up, strict=True))
    return " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in pairs if math.isfinite(b) and x.inside(a) and y.inside(b))


def _band(steps: Sequence[BandStep], x: _Axis, y: _Axis) -> str:
    edges = [(step.diameter_mm, step.q1) for step in steps] + [(step.diameter_mm, step.q3) for step in reversed(steps)]
    return " ".join(f"{x(across):.1f},{y(value):.1f}" for across, value in edges)


def _dot(point: Point, x: _Axis, y: _Axis, across: str, up: str) -> Dot:
    size = point.water_equivalent_diameter
    group = next((f"g{i}" for i, (low, high) in enumerate(SIZE_GROUPS_MM) if size and low <= size < high), "other")
    text = f"{point.at:%Y-%m-%d} {point.scanner}: {getattr(point, up):.3g} at {getattr(point, across):.3g}"
    if size and across != "water_equivalent_diameter":
        text += f", {size:.0f} mm"
    return Dot(x(getattr(point, across)), y(getattr(point, up)), group, text, point.series_instance_uid)


def _quadrants() -> tuple[Label, ...]:
    left, right, top, bottom = _LEFT + 5, WIDTH - _RIGHT - 5, _TOP + 13, HEIGHT - _BOTTOM - 6
    return (
        Label(left, top, "start", "noisier at less dose: raise it"),
        Label(right, top, "end", "noisier at more dose: check"),
        Label(left, bottom, "start", "less noise at less dose: the aim"),
        Label(right, bottom, "end", "less noise at more dose: room"),
    )
