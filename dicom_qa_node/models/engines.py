"""Opens networks on the engine of a device: ONNX Runtime on the CPU, torch on a GPU; numpy only.

Whoever scores asks here and never sees the engine. On the CPU a network without an ONNX file runs on torch where that
is installed; where it is not, the error names the command that exports the file.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.models import weights
from dicom_qa_node.models.card import ModelCard
from dicom_qa_node.models.devices import GPU_EXTRA, choose_device, torch_installed
from dicom_qa_node.models.efficientnet_lite0 import ENCODER
from dicom_qa_node.models.image_features import PictureEncoder

if TYPE_CHECKING:
    from types import ModuleType

    from dicom_qa_node.models.registry import NetworkOption

__all__ = [
    "OUTPUTS",
    "CtHeads",
    "DisplayNetwork",
    "in_threads",
    "open_ct_heads",
    "open_display_network",
    "open_encoder",
    "open_file",
]

FloatArray = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]
Found = TypeVar("Found")

OUTPUTS = ("score", "weight", "spread", "levels", "features")
"""What a display network returns of each crop, in this order; see ``models.layers.Outputs``."""


class DisplayNetwork(Protocol):
    """A network that looks at crops itself; ``device`` is ``cpu`` or ``cuda:N``."""

    device: str

    def run(self, crops: npt.NDArray[np.uint8], codes: Codes | None) -> list[FloatArray]:
        """Return each of `OUTPUTS`, the crops first, of crops (n, side, side, 3) and prompt codes (n, 4) if any."""


class CtHeads(Protocol):
    """The heads of a CT model behind the shared encoder."""

    def rate(self, grid: FloatArray, statistics: FloatArray, codes: Codes) -> FloatArray:
        """Return ratings (members, n, 7) of grids (n, 1120, 8, 8), statistics (n, 2360) and codes (n, 4)."""


@dataclass(frozen=True)
class CtModelFiles:
    """The heads of a CT model with what is read beside them: the dose offset and the half widths (9,)."""

    heads: CtHeads
    dose_offset: float
    half_widths: FloatArray


def open_display_network(card: ModelCard, device: str, weights_dir: Path | None, threads: int) -> DisplayNetwork:
    """Open a network that looks at crops.

    Parameters
    ----------
    device
        As in ``score.device``.
    weights_dir
        Folder of weights; None for those of the package.
    threads
        How many crops or batches may be worked on at once on the CPU.

    Raises
    ------
    Misconfigured
        The device or its engine is missing; weights are missing, or not those of the card.
    """
    where = choose_device(device)
    weights.verify(card, weights_dir)
    if where == "cpu" and (path := _onnx_file(card, weights_dir)) is not None:
        network: DisplayNetwork = _engine("onnx").OnnxDisplayNetwork(path, threads)
    else:
        network = _engine("torch").open_display_network(card, where, weights_dir, threads)
    return network


def open_file(
    card: ModelCard, path: Path, device: str, threads: int, options: Mapping[str, NetworkOption] | None = None
) -> DisplayNetwork:
    """Open a network with a weights file that no card knows, on torch: for training and evaluation."""
    network: DisplayNetwork = _engine("torch").open_file(card, path, choose_device(device), threads, options)
    return network


def open_encoder(device: str, weights_dir: Path | None = None) -> PictureEncoder:
    """Open the shared encoder; errors as in `open_display_network`."""
    where = choose_device(device)
    weights.verify(ENCODER, weights_dir)
    encoder: PictureEncoder
    if where == "cpu" and (path := _onnx_file(ENCODER, weights_dir)) is not None:
        encoder = _engine("onnx").OnnxPictureEncoder(path)
    else:
        encoder = _engine("torch").open_picture_encoder(where, weights_dir)
    return encoder


def open_ct_heads(card: ModelCard, device: str, weights_dir: Path | None = None) -> CtModelFiles:
    """Open the heads of a CT model; errors as in `open_display_network`."""
    where = choose_device(device)
    path = weights.verify(card, weights_dir)
    read = weights.read_arrays(path, ("dose_offset", "half_widths"))
    heads: CtHeads
    if where == "cpu" and (onnx := _onnx_file(card, weights_dir)) is not None:
        heads = _engine("onnx").OnnxCtHeads(onnx)
    else:
        heads = _engine("torch").open_ct_heads(card, where, weights_dir)
    return CtModelFiles(heads, float(read["dose_offset"][0]), read["half_widths"])


def in_threads(work: Callable[[Any], Found], items: Sequence[Any], threads: int) -> list[Found]:
    """Return what ``work`` makes of each item, in their order, by so many threads."""
    if threads <= 1 or len(items) <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        return list(pool.map(work, items))


def _onnx_file(card: ModelCard, weights_dir: Path | None) -> Path | None:
    """Return the verified ONNX file of a card; None where it has none and torch can run the network instead."""
    if card.measured is not None and card.measured.onnx is not None:
        return weights.verify_onnx(card, weights_dir)
    if not torch_installed():
        raise Misconfigured(
            f"model {card.name} has no ONNX file, which the CPU engine runs; where torch is installed, write it with "
            f"dicom-qa-node models export-onnx {card.name}, or run the model on torch here: {GPU_EXTRA}"
        )
    return None


def _engine(name: str) -> ModuleType:
    """Import an engine only when it is needed: torch takes seconds."""
    return importlib.import_module(f"dicom_qa_node.models.{name}_engine")
