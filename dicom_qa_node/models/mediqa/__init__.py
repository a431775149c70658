"""MedIQA, in the paper's size and in a small size for two CPU cores; cards only, free of torch."""

from __future__ import annotations

from pathlib import Path

from dicom_qa_node.models.card import InputPolicy, ModelCard, read_measured
from dicom_qa_node.models.ct_cards import ct_card

__all__ = ["CARDS"]

_FOLDER = Path(__file__).parent / "weights"
_PAPER = (
    "Xun et al., MedIQA: a scalable foundation model for prompt-driven medical image quality assessment, 2025, "
    "arXiv 2507.19004; its backbone MANIQA: Yang et al., CVPRW 2022, arXiv 2204.08958"
)
_FAILURES = (
    "prompt codes, upstream losses and the weights of slices are not published; those here are ours",
    "a wrong header gives a wrong prompt; what is unknown is told as unknown, which a third of the training sees",
    "slices of a series are weighted by the part of the body they stand for, not by a learned importance",
    "the paper found 3-D chest CT the hardest",
)

CARDS = (
    ModelCard(
        name="mediqa_small",
        version="1.0.0",
        title="MedIQA, small: MANIQA behind the evidence stem, prompts from the header, physical parameters named",
        paper=_PAPER,
        code_licence="Apache-2.0",
        weights_licence="",
        data_licence="",
        network="dicom_qa_node.models.mediqa.net:build",
        network_args={"variant": "small"},
        kinds=("ct", "petct", "pt"),
        input=InputPolicy(side=256),
        folder=_FOLDER,
        not_validated_for=("everything: train it first",),
        failure_modes=_FAILURES,
        measured=read_measured(_FOLDER / "mediqa_small.json"),
        needs_prompt=True,
        cost="2.78 M values; 28 crops/s on one CPU core, 0.27 GB more memory than the libraries alone",
    ),
    ModelCard(
        name="mediqa_paper",
        version="1.0.0",
        title="MedIQA in the paper's size: MANIQA on ViT-B/8 with prompts from the header",
        paper=_PAPER,
        code_licence="Apache-2.0",
        weights_licence="",
        data_licence="",
        network="dicom_qa_node.models.mediqa.net:build",
        network_args={"variant": "paper"},
        kinds=("ct", "petct", "pt"),
        input=InputPolicy(side=224),
        folder=_FOLDER,
        not_validated_for=("everything: train it first",),
        failure_modes=_FAILURES,
        measured=read_measured(_FOLDER / "mediqa_paper.json"),
        needs_prompt=True,
        cost="114.6 M values; 0.46 crops/s on one CPU core, 0.80 GB more memory than the libraries alone",
    ),
    ct_card(
        "mediqa_ct",
        "mediqa",
        "MedIQA, small, for CT: MANIQA with prompts, physical parameters upstream",
        _PAPER,
        _FOLDER,
    ),
)
