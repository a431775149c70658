"""What is known of one network variant: how to feed it, what its numbers mean, and what they were measured on.

A card is torch-free, so that any process may show it; the network behind it is opened by string.
What an export measured (checksum, figures, calibration) is read from a JSON file beside the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from dicom_qa_node.errors import Misconfigured
from dicom_qa_node.models.coded import Coded

__all__ = [
    "Calibration",
    "DomainFile",
    "DomainLimit",
    "Figure",
    "InputPolicy",
    "Measured",
    "ModelCard",
    "read_measured",
]


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
    """Split-conformal calibration of one kind of picture.

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
    """The file behind the out-of-domain gate (``models/domain.py``), and its limits by kind of picture."""

    file: str
    sha256: str
    limits: Mapping[str, DomainLimit]


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
    coded: Coded | None = None


@dataclass(frozen=True)
class ModelCard:
    """The card of one variant.

    ``network`` is ``module:function`` returning the untrained network; ``measured`` is None for a variant
    whose weights are not shipped. ``score_range`` runs from worst to best. ``needs_prompt`` asks the scorer to tell the
    network the `models.prompts` of every picture. ``cost`` says what memory and time were measured on which machine.
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
        """Return the 90 % half width for a kind of picture; a kind without one has the full range."""
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
