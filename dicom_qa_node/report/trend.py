"""Draws how one scanner's scores went: one dot for each earlier series, the present one in ink at the end."""

from __future__ import annotations

from collections.abc import Sequence

from dicom_qa_node.report.canvas import Box, Canvas, Colour

__all__ = ["draw_trend"]

_BEST = 4.0
_LABELS = 34


def draw_trend(
    canvas: Canvas,
    box: Box,
    earlier: Sequence[float],
    present: float | None,
    bands: Sequence[tuple[float, float, Colour]],
    faint: Colour,
    ink: Colour,
) -> None:
    """Draw scores from 0 to 4 over bands of colour.

    Parameters
    ----------
    earlier
        Oldest first.
    present
        The score of this series, None where it has none.
    bands
        Lowest and highest score of each band, and its colour.
    """
    left, top, right, bottom = box
    left += _LABELS

    def at(score: float) -> float:
        return bottom - (bottom - top) * min(max(score, 0.0), _BEST) / _BEST

    for low, high, colour in bands:
        canvas.draw.rectangle((left, at(high), right, at(low)), colour)
    for mark in (0, 2, 4):
        canvas.text((left - 10, at(mark) - 8), str(mark), 14, faint, right=True)
    step = (right - left) / (len(earlier) + 2)
    points = [(left + step * (number + 1), at(score)) for number, score in enumerate(earlier)]
    here = [] if present is None else [(left + step * (len(earlier) + 1), at(present))]
    if len(points + here) > 1:
        canvas.draw.line(points + here, faint, 2)
    for x, y in points:
        canvas.draw.ellipse((x - 4, y - 4, x + 4, y + 4), faint)
    for x, y in here:
        canvas.draw.ellipse((x - 8, y - 8, x + 8, y + 8), ink, (255, 255, 255), 2)
