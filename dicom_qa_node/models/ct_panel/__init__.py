"""The panel: the four methods on one pass of the encoder, their mean and their disagreement; its card only."""

from __future__ import annotations

from pathlib import Path

from dicom_qa_node.models.ct_cards import CT_METHODS, ct_card

__all__ = ["CARDS"]

CARDS = (
    ct_card(
        "ct_panel",
        ",".join(CT_METHODS),
        "Panel of MS-IQA, TFKT, MD-IQA and MedIQA, small, for CT: mean rating of four, one pass of the encoder",
        "see ms_iqa_ct, tfkt_ct, md_iqa_ct and mediqa_ct",
        Path(__file__).parent / "weights",
    ),
)
