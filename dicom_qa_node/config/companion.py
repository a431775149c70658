"""The section of what goes beside the Structured Report: one block for each target."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dicom_qa_node.config.base import Section

__all__ = ["Companion", "Language"]

Language = Literal["en", "de", "fr", "es"]


class Companion(Section):
    """Further documents of each report, for viewers that do not show Structured Reports."""

    image: bool = Field(False, description="one page as Secondary Capture image")
    pdf: bool = Field(False, description="the same page as Encapsulated PDF")
    key_objects: bool = Field(
        False, description='Key Object Selection "Quality Issue" that points at the offending slices, if there are any'
    )
