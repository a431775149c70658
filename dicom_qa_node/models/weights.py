"""Weights files: safetensors, and ONNX for the CPU engine, checked against the card before a single number is used.

`verify` and `verify_onnx` need no torch; `load` puts the tensors into a network. Every failure is `Misconfigured`: the
node goes on receiving, and scoring waits until the operator installs the right file.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.models.card import Measured, ModelCard

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt
    from torch import nn

    FloatArray = npt.NDArray[np.float32]

__all__ = ["load", "read_arrays", "verify", "verify_onnx", "weights_path"]

_HEADER_LIMIT = 100_000_000


def weights_path(card: ModelCard, weights_dir: Path | None = None) -> Path:
    """Return where the card's weights must lie: in ``weights_dir`` if given, else in the package."""
    return (weights_dir or card.folder) / _measured(card).file


def verify(card: ModelCard, weights_dir: Path | None = None) -> Path:
    """Check the weights file of a card without torch and return its path.

    Raises
    ------
    Misconfigured
        No weights belong to the card; the file is missing; its SHA-256 is not the card's; its header is not a
        safetensors header, or does not hold as many parameters as the card says.
    """
    measured = _measured(card)
    path = weights_path(card, weights_dir)
    content = _checked(card, path, measured.sha256)
    stored = _stored_parameters(content, path)
    if stored != measured.parameters:
        raise Misconfigured(f"the weights {path} hold {stored} parameters, the card says {measured.parameters}")
    return path


def verify_onnx(card: ModelCard, weights_dir: Path | None = None) -> Path:
    """Check the ONNX file of a card and return its path: in ``weights_dir`` if it lies there, else in the package.

    Raises
    ------
    Misconfigured
        The card has none; the file is missing; its SHA-256 is not the card's.
    """
    described = _measured(card).onnx
    if described is None:
        raise Misconfigured(f"model {card.name} has no ONNX file: dicom-qa-node models export-onnx {card.name}")
    own = (weights_dir or card.folder) / described.file
    path = own if own.is_file() else card.folder / described.file
    _checked(card, path, described.sha256)
    return path


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, FloatArray]:
    """Read some tensors of a verified safetensors file as float32, without torch."""
    import numpy as np
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as stored:
        return {name: np.asarray(stored.get_tensor(name), np.float32) for name in names}


def _checked(card: ModelCard, path: Path, sha256: str) -> bytes:
    """Return the content of a file whose SHA-256 is the card's."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Misconfigured(
            f"the weights of model {card.name} are missing: {path} ({error.strerror}); "
            "install the file or choose another model"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise Misconfigured(
            f"the weights {path} are not those of the card: SHA-256 {found} instead of {sha256}; install the right file"
        )
    return content


def load(network: nn.Module, card: ModelCard, weights_dir: Path | None = None) -> None:
    """Verify the card's file and copy its tensors into ``network``.

    Raises
    ------
    Misconfigured
        As `verify`; or the tensors' names or shapes are not the network's.
    """
    load_file(network, verify(card, weights_dir), card.name)


def load_file(network: nn.Module, path: Path, name: str) -> None:
    """Copy the tensors of a safetensors file into ``network``; names and shapes must match exactly."""
    from safetensors.torch import load_file as read_tensors

    tensors = read_tensors(path)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    stored = {key: tuple(value.shape) for key, value in tensors.items()}
    if stored != expected:
        wrong = sorted(k for k in expected.keys() | stored.keys() if expected.get(k) != stored.get(k))
        raise Misconfigured(
            f"the weights {path} do not fit the network of model {name}: "
            f"{len(wrong)} tensors differ, first {wrong[0]!r}"
        )
    network.load_state_dict({key: value.to(network.state_dict()[key].dtype) for key, value in tensors.items()})


def _measured(card: ModelCard) -> Measured:
    if card.measured is None:
        raise Misconfigured(f"model {card.name} is shipped without weights; train it or choose another model")
    return card.measured


def _stored_parameters(content: bytes, path: Path) -> int:
    """Count the values in a safetensors file from its JSON header."""
    try:
        (length,) = struct.unpack("<Q", content[:8])
        if length > min(_HEADER_LIMIT, len(content) - 8):
            raise ValueError("header longer than the file")
        header = json.loads(content[8 : 8 + length])
        total = 0
        for key, entry in header.items():
            if key != "__metadata__":
                size = 1
                for side in entry["shape"]:
                    size *= side
                total += size
        return total
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise Misconfigured(f"{path} is not a safetensors file: {error}") from error
