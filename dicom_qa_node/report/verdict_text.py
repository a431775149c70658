"""A verdict and its measurements in words, for viewers that show the text of a report and nothing else."""

from __future__ import annotations

import math

from dicom_qa_node.domain.results import Measurement, SeriesResult, Severity
from dicom_qa_node.domain.units import unit_text

__all__ = ["conclusion", "measurement_text"]

_BEST = 4


def conclusion(result: SeriesResult) -> str:
    """Return grade, score with two decimals, interval and the sentence that explains them.

    A grade set names both ends, the better one first: "Diagnostic to limited quality".
    """
    if result.qc_phantom is not None:
        return f"QC phantom ({result.qc_phantom.title}): not rated as a patient. {result.why}".strip()
    if result.score is None:
        return f"Not rated. {_why_not(result)}".strip()
    words = f"{_grade(result)}: score {result.score:.2f} of {_BEST}"
    if result.interval is not None:
        words += f", interval {result.interval[0]:.2f} to {result.interval[1]:.2f}"
    return f"{words}. {result.why}".strip()


def measurement_text(item: Measurement, bounds: str) -> str:
    """Return a measurement with its unit, where it lies in its ``bounds`` ("usual range", "tolerance"), and details."""
    if item.value is None:
        return f"{item.meaning}: not measured, {item.not_applicable or 'no reason given'}"
    if not math.isfinite(item.value):
        return f"{item.meaning}: the estimator gave no finite value"
    unit = unit_text(item.unit)
    value = f"{item.meaning}: {' '.join(filter(None, (f'{item.value:.4g}', unit)))}"
    return "; ".join(filter(None, (f"{value}{_place(item, item.value, bounds, unit)}", item.detail)))


def _grade(result: SeriesResult) -> str:
    if result.grade is None:
        return "Rated without a grade"
    best, low = result.grade.value.capitalize(), result.grade_low
    return f"{best} quality" if low is None or low is result.grade else f"{best} to {low.value} quality"


def _why_not(result: SeriesResult) -> str:
    if result.why:
        return result.why
    return next((item.sentence for item in result.findings if item.severity is Severity.ERROR), "")


def _place(item: Measurement, value: float, bounds: str, unit: str) -> str:
    if item.low is None and item.high is None:
        return ""
    place = "within"
    if item.low is not None and value < item.low:
        place = "below"
    if item.high is not None and value > item.high:
        place = "above"
    return f", {place} the {bounds} ({_range(item, unit)})"


def _range(item: Measurement, unit: str) -> str:
    if item.low is not None and item.high is not None:
        words = f"{item.low:g} to {item.high:g}"
    else:
        words = f"at least {item.low:g}" if item.low is not None else f"at most {item.high:g}"
    return f"{words} {unit}".strip()
