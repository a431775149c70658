"""MD-IQA, in the paper's size and in a small size for two CPU cores; cards only, free of torch."""

from __future__ import annotations

from pathlib import Path

from dicom_qa_node.models.card import InputPolicy, ModelCard, read_measured
from dicom_qa_node.models.ct_cards import ct_card

__all__ = ["CARDS"]

_FOLDER = Path(__file__).parent / "weights"
_PAPER = (
    "Song et al., MD-IQA: learning multi-scale distributed image quality assessment with semi-supervised learning for "
    "low-dose CT, ISBI 2024, arXiv 2311.08024"
)
_FAILURES = (
    "layers, scales, Gaussian widths and weights of the losses are not published; those here are our reconstruction",
    "offsets of the deformable convolution are not bounded; on pictures unlike the training set they may sample air",
    "the spread is that of the predicted distributions and is not calibrated",
)

CARDS = (
    ModelCard(
        name="md_iqa_small",
        version="1.0.0",
        title="MD-IQA, small: ViT and ConvNeXt behind the evidence stem, deformable alignment, score distributions",
        paper=_PAPER,
        code_licence="Apache-2.0",
        weights_licence="",
        data_licence="",
        network="dicom_qa_node.models.md_iqa.net:build",
        network_args={"variant": "small"},
        kinds=("ct", "petct", "pt"),
        input=InputPolicy(side=256),
        folder=_FOLDER,
        not_validated_for=("everything: train it first",),
        failure_modes=_FAILURES,
        measured=read_measured(_FOLDER / "md_iqa_small.json"),
        cost="2.75 M values; 28 crops/s on one CPU core, 0.28 GB more memory than the libraries alone",
    ),
    ModelCard(
        name="md_iqa_paper",
        version="1.0.0",
        title="MD-IQA of the paper's kind: ViT-B/8 (blocks 7 to 10) and ConvNeXt-T, aligned at three scales",
        paper=_PAPER,
        code_licence="Apache-2.0",
        weights_licence="",
        data_licence="",
        network="dicom_qa_node.models.md_iqa.net:build",
        network_args={"variant": "paper"},
        kinds=("ct", "petct", "pt"),
        input=InputPolicy(side=224),
        folder=_FOLDER,
        not_validated_for=("everything: train it first",),
        failure_modes=_FAILURES,
        measured=read_measured(_FOLDER / "md_iqa_paper.json"),
        cost="86.9 M values; 0.84 crops/s on one CPU core, 0.63 GB more memory than the libraries alone",
    ),
    ct_card(
        "md_iqa_ct",
        "md_iqa",
        "MD-IQA, small, for CT: two aligned branches, distributions, pseudo-labels",
        _PAPER,
        _FOLDER,
    ),
)
