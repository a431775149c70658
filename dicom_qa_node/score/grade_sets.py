"""Grades that carry their uncertainty: the best and the worst grade that an interval reaches."""

from __future__ import annotations

from dataclasses import replace

from dicom_qa_node.config import Grades
from dicom_qa_node.domain.results import Grade, RatedPart

__all__ = ["grade_of", "grade_set", "graded"]


def grade_of(score: float, grades: Grades) -> Grade:
    """Return the grade (CID 7036) of a score by the configured thresholds."""
    if score >= grades.diagnostic:
        return Grade.DIAGNOSTIC
    return Grade.LIMITED if score >= grades.limited else Grade.NON_DIAGNOSTIC


def grade_set(
    score: float | None, interval: tuple[float, float] | None, grades: Grades
) -> tuple[Grade | None, Grade | None]:
    """Return the best grade that an interval reaches, which is the one that is coded, and the worst if it is another.

    Without an interval the score alone decides.
    """
    if score is None:
        return None, None
    low, high = interval or (score, score)
    best, worst = grade_of(max(high, score), grades), grade_of(min(low, score), grades)
    return best, None if worst is best else worst


def graded(part: RatedPart, grades: Grades) -> RatedPart:
    """Return a rated part with the grades of its score and interval."""
    best, worst = grade_set(part.score, part.interval, grades)
    return replace(part, grade=best, grade_low=worst)
