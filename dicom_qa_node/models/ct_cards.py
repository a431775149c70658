"""Cards of the CT models: one for each method and one for the panel of four, free of torch."""

from __future__ import annotations

from pathlib import Path

from dicom_qa_node.models.card import InputPolicy, ModelCard, read_measured

__all__ = ["CT_METHODS", "ct_card"]

CT_METHODS = ("ms_iqa", "tfkt", "md_iqa", "mediqa")

_DATA = (
    "MTD-GAN reader study (MIT; CT slices of the Mayo/AAPM low-dose challenge; doi 10.1109/TMI.2024.3449647); TCIA CT "
    "series of 24 scanner models (CC BY 3.0 and 4.0); BIQ2021 photographs (TFKT and the domain only; no licence file)"
)
_LIMITS = (
    "anything but axial CT of the trunk; children; bone windows; photon-counting CT; cone-beam CT",
    "reconstructions by deep learning beyond the denoisers of the reader study",
    "motion, metal and truncation: only streaks like those of missing views were simulated",
)
_FAILURES = (
    "thin or low-dose series of plain purpose (colonography, attenuation CT) can score below diagnostic: their noise "
    "counts as it is seen",
    "severities were simulated and their worth is a convention; readers rated denoised pictures of two regions only",
    "where a picture is neither clearly denoised nor clearly acquired, the score mixes two scales",
)


def ct_card(name: str, methods: str, title: str, paper: str, folder: Path) -> ModelCard:
    """Return the card of a CT model; ``methods`` are packages of networks, joined by commas."""
    return ModelCard(
        name=name,
        version="1.0.0",
        title=title,
        paper=paper,
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        data_licence=_DATA,
        network="dicom_qa_node.models.ct_network:build_model",
        network_args={"methods": methods},
        kinds=("ct",),
        input=InputPolicy(side=128, crops_per_side=1),
        folder=folder,
        not_validated_for=_LIMITS,
        failure_modes=_FAILURES,
        measured=read_measured(folder / f"{name}.json"),
        needs_prompt=True,
        cost="with the shared encoder 0.15 to 0.3 s for a slice of 512 x 512 on one CPU core",
    )
