"""Model cards: how to feed a model, what its numbers mean, what it was measured on, its degradation prior."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from dicom_qa_node.domain.errors import Misconfigured

__all__ = [
    "LEVELS_OF",
    "SCORE_SCALE",
    "Calibration",
    "DegradationPrior",
    "DomainFile",
    "DomainLimit",
    "Figure",
    "InputPolicy",
    "Measured",
    "ModelCard",
    "OnnxFile",
    "read_measured",
]

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

SCORE_SCALE: Mapping[int, str] = {
    4: "excellent",
    3: "good",
    2: "limited interpretation",
    1: "diagnostic interpretation impossible",
    0: "nothing to be seen",
}
"""What the points of a score mean, in the words of PET-CT-IQA-DS and LDCTIQAC2023: for cards, reviews and labels."""

LEVELS_OF: Mapping[str, tuple[int, ...]] = {"ct": (3, 4, 5), "pt": (6,), "petct": ()}
"""Which named levels (jpeg, gauss, impulse, dose, views, blur, counts) are severities of a modality class."""

_CELLS = tuple(itertools.product((0.0, 1.0, 2.0), repeat=3))
_LEAST = 0.02


@dataclass(frozen=True)
class DegradationPrior:
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


@dataclass(frozen=True)
class InputPolicy:
    """How pictures reach the network.

    ``side`` pixels per crop at native resolution, on the 8-pixel grid, ``crops_per_side`` at most; values are
    display grey levels divided by 255 (the network normalises inside).
    """

    side: int
    crops_per_side: int = 3
    channels: int = 3
    ct_window_hu: tuple[float, float] = (-135.0, 215.0)
    ct_lung_window_hu: tuple[float, float] = (-1350.0, 150.0)
    suv_range: tuple[float, float] = (0.0, 6.0)


@dataclass(frozen=True)
class Figure:
    """One measured figure with its bootstrap interval (90 % unless ``protocol`` says otherwise)."""

    name: str
    value: float
    low: float
    high: float
    n: int
    protocol: str


@dataclass(frozen=True)
class Calibration:
    """Split-conformal calibration of one modality class.

    ``half_width`` is added to both sides of a score; ``coverage`` is what it covered on groups that
    neither the network nor the width had seen, ``n`` pictures of ``groups`` groups.
    """

    half_width: float
    nominal: float
    coverage: float
    n: int
    groups: int
    note: str = ""


@dataclass(frozen=True)
class DomainLimit:
    """From which distance on a picture of one kind lies outside the domain.

    ``held_out_outside`` is the share of pictures that lay outside though they were CT or PET like those of the
    training: ``n`` pictures of groups that neither the network nor the limit had seen.
    """

    limit: float
    held_out_outside: float
    n: int


@dataclass(frozen=True)
class DomainFile:
    """The file behind the out-of-domain gate (``models/ood.py``), and its limits by modality class."""

    file: str
    sha256: str
    limits: Mapping[str, DomainLimit]


@dataclass(frozen=True)
class OnnxFile:
    """The network with its weights as one ONNX file, for the CPU engine; ``opset`` of the default domain."""

    file: str
    sha256: str
    opset: int


@dataclass(frozen=True)
class Measured:
    """What an export wrote about its weights file."""

    file: str
    sha256: str
    parameters: int
    trained_on: str
    seed: int
    steps: int
    figures: tuple[Figure, ...] = ()
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    domain: DomainFile | None = None
    coded: DegradationPrior | None = None
    onnx: OnnxFile | None = None


@dataclass(frozen=True)
class ModelCard:
    """The card of one variant.

    ``network`` is ``module:function`` returning the untrained network; ``measured`` is None for a variant
    whose weights are not shipped. ``score_range`` runs from worst to best. ``needs_prompt`` asks the scorer to tell the
    network the `models.text_prompt` of every picture. ``cost`` says what memory and time were measured on which
    machine.
    """

    name: str
    version: str
    title: str
    paper: str
    code_licence: str
    weights_licence: str
    data_licence: str
    network: str
    network_args: Mapping[str, str]
    kinds: tuple[str, ...]
    input: InputPolicy
    folder: Path
    score_range: tuple[float, float] = (0.0, 4.0)
    not_validated_for: tuple[str, ...] = ()
    failure_modes: tuple[str, ...] = ()
    measured: Measured | None = None
    needs_prompt: bool = False
    cost: str = ""

    @property
    def sha256(self) -> str:
        """Checksum of the shipped weights, "" where none are shipped."""
        return self.measured.sha256 if self.measured else ""

    def half_width(self, kind: str) -> float:
        """Return the 90 % half width for a modality class; a kind without one has the full range."""
        calibrated = self.measured.calibration.get(kind) if self.measured else None
        return calibrated.half_width if calibrated else self.score_range[1] - self.score_range[0]


_ADAPTER: TypeAdapter[Measured] = TypeAdapter(Measured)


def read_measured(path: Path) -> Measured | None:
    """Read what an export wrote, or None where nothing was shipped."""
    if not path.is_file():
        return None
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except ValueError as error:
        raise Misconfigured(f"the model card {path} cannot be read: {error}") from error


def measured_to_json(measured: Measured) -> str:
    """Serialise for `read_measured`: sorted, indented, the same text for the same content."""
    return _ADAPTER.dump_json(measured, indent=1).decode() + "\n"
