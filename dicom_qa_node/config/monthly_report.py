"""The section of the monthly report: where it goes by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dicom_qa_node.config.fields import Section

__all__ = ["MonthlyReport"]


class MonthlyReport(Section):
    """The report of each month, made when it is over; without a folder and channels only on demand."""

    folder: Path | None = Field(None, strict=False, description="folder to write each report to, one file a month")
    channels: list[str] = Field(
        default_factory=list, description="e-mail channels (alerts.email) that get each report as an attachment"
    )
    formats: list[Literal["pdf", "xlsx"]] = Field(["pdf"], min_length=1, description="forms of the report")
    each_scanner: bool = Field(False, description="a report of each scanner, beside that of the site")
    day: int = Field(2, ge=1, le=28, description="day of the next month on which the report is made")

    @model_validator(mode="after")
    def _once(self) -> MonthlyReport:
        for name in ("channels", "formats"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: each may stand once")
        return self

    @property
    def scheduled(self) -> bool:
        """Whether reports are made without being asked for."""
        return self.folder is not None or bool(self.channels)
