"""How bad a simulated degradation is on the 0-4 scale: the documented, monotone mapping behind simulated labels.

Nobody rated these pictures. The anchors follow the scale's wording (4 excellent, 3 good, 2 limited interpretation,
1 diagnostic interpretation impossible, 0 nothing to be seen) and the steps of LDCTIQAC2023 (four doses, three
view numbers); between anchors the score is linear in the logarithm of the severity. Several degradations
at once multiply, as shares of the routine score.
"""

from __future__ import annotations

import numpy as np

__all__ = ["ROUTINE_SCORE", "simulated_score"]

ROUTINE_SCORE = 3.7

_DOSE = {1.0: 3.7, 0.5: 3.3, 0.25: 2.7, 0.1: 1.7, 0.05: 1.0, 0.025: 0.5, 0.01: 0.2}
_VIEWS = {720.0: 3.7, 360.0: 3.4, 180.0: 2.5, 120.0: 1.9, 64.0: 1.0, 32.0: 0.4}
_COUNTS = {1.0: 3.7, 0.5: 3.3, 0.25: 2.7, 0.1: 1.9, 0.05: 1.3, 0.02: 0.6, 0.01: 0.3}
_BLUR = {0.0: 3.7, 0.5: 3.6, 1.0: 3.0, 2.0: 2.0, 4.0: 0.8}


def simulated_score(dose: float = 1.0, views: float = 720.0, counts: float = 1.0, blur_px: float = 0.0) -> float:
    """Return the score 0-4 that a simulated picture is trained towards.

    Parameters
    ----------
    dose, counts
        Fractions of the routine dose and of the PET counts, in (0, 1].
    views
        Views over 180 degrees; 720 is complete.
    blur_px
        SD of the additional point spread in pixels.
    """
    shares = (
        _interpolate_log(_DOSE, dose),
        _interpolate_log(_VIEWS, views),
        _interpolate_log(_COUNTS, counts),
        _interpolate(_BLUR, blur_px),
    )
    return float(ROUTINE_SCORE * np.prod([share / ROUTINE_SCORE for share in shares]))


def _interpolate_log(anchors: dict[float, float], value: float) -> float:
    return _interpolate({float(np.log2(key)): score for key, score in anchors.items()}, float(np.log2(value)))


def _interpolate(anchors: dict[float, float], value: float) -> float:
    keys = sorted(anchors)
    return float(np.interp(value, keys, [anchors[key] for key in keys]))
