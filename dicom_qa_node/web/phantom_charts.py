"""Charts of a phantom's quantity over time, with the tolerance by which each run was judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dicom_qa_node.domain.qc_phantoms import QcOutcome
from dicom_qa_node.quality_control.runs import ChartPoint

__all__ = ["ToleranceChart", "tolerance_chart"]

WIDTH, HEIGHT = 640.0, 160.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 8.0, 10.0, 24.0


@dataclass(frozen=True, slots=True)
class ToleranceChart:
    """Coordinates in a box of 640 by 160.

    ``dots`` are x, y, class and words; ``low`` and ``high`` the latest tolerance as heights, None where it is open;
    ``ticks`` are heights with their value.
    """

    line: str
    dots: tuple[tuple[float, float, str, str], ...]
    low: float | None
    high: float | None
    ticks: tuple[tuple[float, str], ...]
    first: str
    last: str
    width: float = WIDTH
    height: float = HEIGHT
    left: float = _LEFT


def tolerance_chart(points: Sequence[ChartPoint]) -> ToleranceChart:
    """Draw the points of one quantity, oldest first; at least one."""
    values = [point.value.value for point in points]
    newest = points[-1].value
    edges = [bound for bound in (newest.low, newest.high) if bound is not None]
    low, high = min(values + edges), max(values + edges)
    spare = 0.08 * (high - low) or abs(high) * 0.05 or 1.0
    low, high = low - spare, high + spare
    begin, end = points[0].at.timestamp(), points[-1].at.timestamp()

    def up(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    def across(point: ChartPoint) -> float:
        share = (point.at.timestamp() - begin) / (end - begin) if end > begin else 0.5
        return _LEFT + 6 + share * (WIDTH - _LEFT - _RIGHT - 12)

    places = [(across(point), up(point.value.value), point) for point in points]
    return ToleranceChart(
        line=" ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places),
        dots=tuple((x, y, _class(point), f"{point.at:%Y-%m-%d}: {point.value.value:.4g}") for x, y, point in places),
        low=None if newest.low is None else up(newest.low),
        high=None if newest.high is None else up(newest.high),
        ticks=tuple((up(value), f"{value:.4g}") for value in (low + spare, (low + high) / 2, high - spare)),
        first=f"{points[0].at:%Y-%m-%d}",
        last=f"{points[-1].at:%Y-%m-%d}",
    )


def _class(point: ChartPoint) -> str:
    return "bad" if point.value.outcome is QcOutcome.OUTSIDE else "plain"
