"""What a site's reviews change of a CT model: the last mapping of the score and the interval; numpy only.

``score' = intercept + slope x score``, fitted by ridge regression towards the identity on the reviewers' scores, and a
conformal half width of its own. Both are judged by cross-validation on studies left out, and refused where they do
not help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from dicom_qa_node.domain.errors import Misconfigured, Permanent

__all__ = ["FEWEST_REVIEWS", "Comparison", "SiteCalibration", "fit_site_calibration", "read_site_calibration"]

FEWEST_REVIEWS = 50

_FOLDS = 5
_PULL = 5.0
"""Strength, in reviews, with which the mapping is held at the identity."""

_SLOPES = (0.2, 3.0)
_COVERED = 0.9
_LEAST_GAIN = 0.02


@dataclass(frozen=True)
class SiteCalibration:
    """A fitted mapping: ``number`` counts a site's fits, ``model`` and ``version`` name what it belongs to."""

    model: str
    version: str
    number: int
    slope: float
    intercept: float
    half_width: float
    reviews: int

    @property
    def tuned_version(self) -> str:
        """Version of the model with this mapping."""
        return f"{self.version}+site.{self.number}"

    def apply(self, score: float) -> float:
        """Return the mapped score, 0-4."""
        return min(max(self.intercept + self.slope * score, 0.0), 4.0)

    def undo(self, score: float) -> float:
        """Return the score before the mapping."""
        return (score - self.intercept) / self.slope


@dataclass(frozen=True)
class Comparison:
    """Root mean square error and mean error on held-out reviews, and the half width that covers 90 % of them."""

    name: str
    rmse: float
    bias: float
    half_width: float
    reviews: int


def fit_site_calibration(
    scores: Sequence[float],
    reviewed: Sequence[float],
    studies: Sequence[str],
    model: tuple[str, str],
    number: int = 1,
) -> tuple[SiteCalibration, tuple[Comparison, Comparison]]:
    """Fit a mapping, and compare before and after on studies that each fit did not see.

    Parameters
    ----------
    scores, reviewed
        The model's scores without a mapping, and the reviewers' means, 0-4.
    studies
        What each belongs to: a study is held out as a whole.
    model
        Name and version.
    number
        Number of the fit at this site.

    Raises
    ------
    Permanent
        Fewer than 50 reviews, or no improvement on those held out.
    """
    import numpy as np

    x, y = np.asarray(scores, np.float64), np.asarray(reviewed, np.float64)
    if len(x) < FEWEST_REVIEWS:
        raise Permanent(f"{len(x)} reviews with a score; {FEWEST_REVIEWS} are needed to tune {model[0]}")
    names = sorted(set(studies))
    if len(names) < _FOLDS:
        raise Permanent(f"the reviews belong to {len(names)} studies; {_FOLDS} are needed to hold some out")
    fold = np.array([names.index(name) % _FOLDS for name in studies])
    after = np.zeros(len(x))
    for k in range(_FOLDS):
        slope, intercept = _fit(x[fold != k], y[fold != k])
        after[fold == k] = np.clip(intercept + slope * x[fold == k], 0, 4)
    compared = (_compare("before", x, y), _compare("after", after, y))
    if compared[1].rmse > compared[0].rmse - _LEAST_GAIN:
        raise Permanent(
            f"no improvement on {len(x)} held-out reviews: error {compared[0].rmse:.2f} before, "
            f"{compared[1].rmse:.2f} after; the model stays as it is"
        )
    slope, intercept = _fit(x, y)
    found = SiteCalibration(*model, number, slope, intercept, compared[1].half_width, len(x))
    return found, compared


def _fit(x: object, y: object) -> tuple[float, float]:
    """Return slope and intercept of ridge regression towards the identity."""
    import numpy as np

    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    centre = a.mean()
    design = np.stack([a - centre, np.ones(len(a))], 1)
    gram = design.T @ design + _PULL * np.diag([max(float(a.var()), 0.05), 1.0])
    change, shift = np.linalg.solve(gram, design.T @ (b - a))
    slope = float(np.clip(1 + change, *_SLOPES))
    return slope, float(centre + shift - slope * centre)


def _compare(name: str, predicted: object, reviewed: object) -> Comparison:
    import numpy as np

    error = np.asarray(predicted, np.float64) - np.asarray(reviewed, np.float64)
    rank = min(int(np.ceil(_COVERED * (len(error) + 1))), len(error))
    width = float(np.sort(np.abs(error))[rank - 1])
    return Comparison(name, float(np.sqrt(np.mean(error**2))), float(error.mean()), width, len(error))


def site_calibration_to_json(found: SiteCalibration) -> str:
    """Serialise for `read_site_calibration`."""
    import json

    return json.dumps(asdict(found), indent=1) + "\n"


def read_site_calibration(path: Path) -> SiteCalibration:
    """Read what ``models tune`` wrote.

    Raises
    ------
    Misconfigured
        The file is missing or damaged.
    """
    try:
        return TypeAdapter(SiteCalibration).validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Misconfigured(f"score.site_calibration: {path} cannot be read: {error}") from error
