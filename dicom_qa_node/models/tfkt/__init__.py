"""TFKT V2, in the paper's size and in a small size for two CPU cores; cards only, free of torch."""

from __future__ import annotations

from pathlib import Path

from dicom_qa_node.models.card import InputPolicy, ModelCard, read_measured
from dicom_qa_node.models.ct_cards import ct_card

__all__ = ["CARDS"]

_FOLDER = Path(__file__).parent / "weights"
_PAPER = (
    "Rifa et al., Task-focused knowledge transfer from natural images for CT image quality assessment, "
    "J Med Imaging 12(5):051805, 2025, doi 10.1117/1.JMI.12.5.051805"
)
_FAILURES = (
    "the connector folds the picture into one vector before Swin reads it: where a defect lies is lost",
    "the published figures come from a split by picture, which leaks between versions of a slice; on the official "
    "LDCTIQAC2023 test the published PLCC within one quality class is 0.43 to 0.70",
    "an external study of a network of this recipe on clinical abdomen CT found a Spearman correlation of 0.31",
)

CARDS = (
    ModelCard(
        name="tfkt_small",
        version="1.0.0",
        title="TFKT, small: EfficientNetV2 blocks behind the evidence stem, connector, small Swin V2",
        paper=_PAPER,
        code_licence="Apache-2.0",
        weights_licence="",
        data_licence="",
        network="dicom_qa_node.models.tfkt.net:build",
        network_args={"variant": "small"},
        kinds=("ct", "petct", "pt"),
        input=InputPolicy(side=256),
        folder=_FOLDER,
        not_validated_for=("everything: train it first",),
        failure_modes=_FAILURES,
        measured=read_measured(_FOLDER / "tfkt_small.json"),
        cost="4.35 M values; 59 crops/s on one CPU core, 0.26 GB more memory than the libraries alone",
    ),
    ModelCard(
        name="tfkt_paper",
        version="1.0.0",
        title="TFKT V2 in the paper's size: EfficientNetV2-L, connector of 64 x 64, Swin V2-B; looks at luma only",
        paper=_PAPER,
        code_licence="Apache-2.0",
        weights_licence="",
        data_licence="",
        network="dicom_qa_node.models.tfkt.net:build",
        network_args={"variant": "paper"},
        kinds=("ct", "petct", "pt"),
        input=InputPolicy(side=512),
        folder=_FOLDER,
        not_validated_for=("everything: train it first",),
        failure_modes=("colour: a fused picture is judged by its luma", *_FAILURES),
        measured=read_measured(_FOLDER / "tfkt_paper.json"),
        cost="209.9 M values; 0.64 crops/s on one CPU core, 1.2 GB more memory than the libraries alone",
    ),
    ct_card(
        "tfkt_ct",
        "tfkt",
        "TFKT, small, for CT: photographs first, connector to a plane, Swin",
        _PAPER,
        _FOLDER,
    ),
)
