"""The sections of what goes out: the report, its targets and retries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dicom_qa_node.config.base import AeTitle, Name, Port, Section
from dicom_qa_node.config.tls import ClientTls

__all__ = ["KINDS", "Deliver", "DicomTarget", "FolderTarget", "Report", "Target"]


class Report(Section):
    """Contents of the Structured Report."""

    manufacturer: str = Field(
        "dicom-qa-node", min_length=1, max_length=64, description="Manufacturer (0008,0070) of the report"
    )
    institution_name: str = Field(
        "", max_length=64, description="Institution Name of the report; empty: that of the images"
    )
    series_number: int = Field(9900, ge=1, le=2147483647, description="Series Number (0020,0011) of report series")


class DicomTarget(Section):
    """A PACS or archive that receives reports by C-STORE."""

    kind: Literal["dicom"] = Field("dicom", description="C-STORE to a DICOM application entity")
    name: Name = Field(description="name used in commands and tables")
    host: str = Field(min_length=1, description="host name or address")
    port: Port = Field(104, description="TCP port")
    ae_title: AeTitle = Field(description="AE title of the target")
    timeout_s: float = Field(30, gt=0, le=600, description="longest wait for an answer")
    tls: ClientTls = Field(default_factory=ClientTls, description="TLS towards this target")
    require_commitment: bool = Field(
        False, description="a report counts as delivered only when the target has committed to its storage"
    )
    commitment_wait_s: float = Field(
        3600, gt=0, le=604800, description="wait for the commitment before the report is sent and asked for again"
    )


class FolderTarget(Section):
    """A folder that receives reports as Part 10 files."""

    kind: Literal["folder"] = Field("folder", description="Part 10 files in a folder")
    name: Name = Field(description="name used in commands and tables")
    path: Path = Field(strict=False, description="folder to write to (created if absent)")


KINDS: dict[str, type[Section]] = {"dicom": DicomTarget, "folder": FolderTarget}


Target = Annotated[DicomTarget | FolderTarget, Field(discriminator="kind")]


class Deliver(Section):
    """Where reports go and how failures are retried."""

    targets: list[Target] = Field(default_factory=list, description="the receivers of reports")
    retry_first_s: float = Field(5, gt=0, le=3600, description="wait after the first failed attempt; doubles each time")
    retry_max_s: float = Field(900, gt=0, le=86400, description="longest wait between two attempts")
    give_up_after_s: float = Field(604800, gt=0, description="age at which an undelivered report is parked")
    lease_s: float = Field(120, ge=5, le=3600, description="a courier that is silent for this long loses its delivery")

    @model_validator(mode="after")
    def _unique_names(self) -> Deliver:
        names = [target.name for target in self.targets]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"target names must be unique; used twice: {', '.join(twice)}")
        return self
