"""MS-IQA, in the paper's size and in the small size that the node ships; cards only, free of torch."""

from __future__ import annotations

from pathlib import Path

from dicom_qa_node.models.card import InputPolicy, ModelCard, read_measured
from dicom_qa_node.models.ct_cards import ct_card

__all__ = ["CARDS"]

_FOLDER = Path(__file__).parent / "weights"
_PAPER = (
    "Li et al., MS-IQA: multi-scale feature fusion for PET/CT image quality assessment, MICCAI 2025, arXiv 2506.20200"
)
_DATA = (
    "PET-CT-IQA-DS public half (no licence file; cite arXiv 2506.20200); MTD-GAN reader study (MIT; CT slices of the "
    "Mayo/AAPM low-dose challenge; doi 10.1109/TMI.2024.3449647); TCIA CT and FDG-PET/CT series (CC BY 3.0)"
)
_LIMITS = (
    "anything but axial CT and FDG-PET/CT; MR, ultrasound, mammography, cone-beam CT",
    "denoised and deep-learning reconstructions beyond those of the reader study",
    "brain windows other than the reader study's; bone windows; children; photon-counting CT",
    "PET with tracers other than FDG, and count reduction by real list-mode data (a surrogate was used)",
    "misregistration, motion, metal artefacts and truncation: the score does not see them reliably",
)
_FAILURES = (
    "a sharp kernel in the soft-tissue window looks like noise and scores low; it is shown in the lung window",
    "very smooth reconstructions may score high although detail was lost; blur is ordered unreliably",
    "head CT in a narrow brain window: agreement with the reader study's held-out sets is weak (ct_brain_*)",
    "unseen scanners and kernels: doses from full to a quarter may score alike (ct_dose_spearman)",
    "fewer PET counts lower a fused picture's score in the right order but by little, a few tenths",
    "routine CT of an unseen scanner can score near 2.5, because noise is judged by what it looks like",
    "CT pictures have no out-of-domain gate but the header rules: a photograph sent as CT would be scored",
    "a picture without tissue is scored, but the score means nothing; slices without a body are left out before",
)

CARDS = (
    ModelCard(
        name="ms_iqa_small",
        version="1.1.0",
        title="MS-IQA, small: ResNet and Swin at four scales, score x weight, mixed with the worth of what it names",
        paper=_PAPER,
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        data_licence=_DATA,
        network="dicom_qa_node.models.ms_iqa.net:build",
        network_args={"variant": "small"},
        kinds=("ct", "petct", "pt"),
        input=InputPolicy(side=256),
        folder=_FOLDER,
        not_validated_for=_LIMITS,
        failure_modes=_FAILURES,
        measured=read_measured(_FOLDER / "ms_iqa_small.json"),
        cost="4.12 M values; 50 crops/s on one CPU core, 0.29 GB more memory than the libraries alone",
    ),
    ModelCard(
        name="ms_iqa_paper",
        version="1.0.0",
        title="MS-IQA in the paper's size: ResNet-50 and Swin-T; no weights are shipped",
        paper=_PAPER,
        code_licence="Apache-2.0",
        weights_licence="",
        data_licence="",
        network="dicom_qa_node.models.ms_iqa.net:build",
        network_args={"variant": "paper"},
        kinds=("ct", "petct", "pt"),
        input=InputPolicy(side=224),
        folder=_FOLDER,
        not_validated_for=("everything: train it first",),
    ),
    ct_card(
        "ms_iqa_ct",
        "ms_iqa",
        "MS-IQA, small, for CT: four scales of the shared encoder, convolution and Swin, fused by AGCA",
        _PAPER,
        _FOLDER,
    ),
)
