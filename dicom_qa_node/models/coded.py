"""Mix a network's score with the worth of the degradations that it names; numpy only, and only when it mixes.

A network that names what was done to a picture says more than its score: the readers' mean for that is known.
For a fused picture it is the expected score over the 27 cells of (JPEG, Gaussian noise, impulses), each cell weighted
by how near the named levels are to it; for a CT or PET alone it is the routine score times one share for each named
severity (dose, views, blur; counts). The result is ``trust`` times that worth plus the rest of the score.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

__all__ = ["LEVELS_OF", "Coded"]

LEVELS_OF: Mapping[str, tuple[int, ...]] = {"ct": (3, 4, 5), "pt": (6,), "petct": ()}
"""Which named levels (jpeg, gauss, impulse, dose, views, blur, counts) are severities of a kind of picture."""

_CELLS = tuple(itertools.product((0.0, 1.0, 2.0), repeat=3))
_LEAST = 0.02


@dataclass(frozen=True)
class Coded:
    """What the worth is read from.

    ``cells`` are the 27 cell means over the training references, JPEG slowest, impulses fastest; ``sigma`` the
    uncertainty of a named level. ``shares`` hold, for each of the seven levels, the share of the ``routine`` score at
    levels 0, ``step``, 2 ``step`` ...; the first three are empty. ``trust`` is the part of the worth, by kind.
    """

    cells: tuple[float, ...]
    sigma: float
    shares: tuple[tuple[float, ...], ...]
    step: float
    routine: float
    trust: Mapping[str, float]

    def mix(self, score: npt.ArrayLike, levels: npt.ArrayLike, kind: str) -> FloatArray:
        """Return the mixed score (n,) of scores (n,) and named levels (n, 7)."""
        import numpy as np

        own = np.asarray(score, np.float64)
        trust = self.trust.get(kind, 0.0)
        if not trust:
            return own.astype(np.float32)
        return ((1 - trust) * own + trust * self.worth(levels, kind)).astype(np.float32)

    def worth(self, levels: npt.ArrayLike, kind: str) -> npt.NDArray[np.float64]:
        """Return the worth (n,) of what was named (n, 7)."""
        import numpy as np

        named = np.asarray(levels, np.float64)
        if kind == "petct":
            distance = np.square(named[:, None, :3] - np.array(_CELLS)).sum(2)
            near = np.exp((distance.min(1, keepdims=True) - distance) / (2 * self.sigma**2))
            return np.asarray(near @ np.array(self.cells) / near.sum(1))
        worth = np.full(len(named), self.routine)
        for index in LEVELS_OF[kind]:
            worth *= self._share(named[:, index], np.array(self.shares[index]))
        return worth

    def _share(self, level: npt.NDArray[np.float64], shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Read a curve; below zero its first piece goes on, so that better than routine stays in order."""
        import numpy as np

        below = shares[0] + (shares[1] - shares[0]) / self.step * np.minimum(level, 0.0)
        read = np.interp(level, self.step * np.arange(shares.size), shares)
        return np.asarray(np.maximum(np.where(level < 0, below, read), _LEAST))
