"""The section of the bridge to Orthanc: where it is, which series it sends, and what is written on them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from dicom_qa_node.config.delivery import is_loopback
from dicom_qa_node.config.fields import SHELL, Name, Section, checked_patterns

__all__ = ["Orthanc", "SeriesSelection"]


class SeriesSelection(Section):
    """Which series of Orthanc are sent to the node: each list that is given must have an entry that matches."""

    modalities: list[str] = Field(["CT", "PT"], description=f"Modality; {SHELL}")
    stations: list[str] = Field(default_factory=list, description=f"Station Name; {SHELL}")
    institutions: list[str] = Field(default_factory=list, description=f"Institution Name; {SHELL}")
    descriptions: list[str] = Field(default_factory=list, description=f"Series Description; {SHELL}")
    without_descriptions: list[str] = Field(
        default_factory=list, description=f"Series Description that is left out; {SHELL}"
    )

    @field_validator("*")
    @classmethod
    def _whole(cls, patterns: list[str]) -> list[str]:
        return checked_patterns(patterns)


class Orthanc(Section):
    """The bridge to an Orthanc server: its series come to the node, scores go back onto the series."""

    url: str = Field(
        "",
        pattern=r"^(https?://[^/@?#\s]+(/[^?#\s]*)?)?$",
        json_schema_extra={"allowed": "address of Orthanc's REST interface, or empty"},
        description="address of Orthanc's REST interface, such as http://127.0.0.1:8042; empty: there is no bridge",
    )
    name: Name = Field("orthanc", description="name under which the bridge keeps its place in Orthanc's changes")
    user: str = Field("", max_length=256, description="user of basic authentication (RegisteredUsers in Orthanc)")
    password_file: Path | None = Field(None, strict=False, description="file that holds the password and nothing else")
    password_variable: str = Field(
        "",
        pattern=r"^[A-Z_][A-Z0-9_]*$|^$",
        json_schema_extra={"allowed": "name of an environment variable, or empty"},
        description="environment variable that holds the password, in place of password_file",
    )
    bearer_token_file: Path | None = Field(
        None, strict=False, description="file that holds a bearer token, for an Orthanc behind a proxy"
    )
    ca: Path | None = Field(
        None, strict=False, description="PEM file with the CAs of the server's certificate; empty: those of the system"
    )
    certificate: Path | None = Field(None, strict=False, description="PEM file with the node's client certificate")
    key: Path | None = Field(None, strict=False, description="PEM file with its private key, not encrypted")
    timeout_s: float = Field(30, gt=0, le=600, description="longest wait for an answer")
    modality: Name = Field("dicomqa", description="name of this node in Orthanc's DicomModalities")
    target: str = Field(
        "",
        description="entry of deliver.targets that sends reports to this Orthanc; its route holds for the bridge, "
        "too. Empty: the bridge stores the reports itself",
    )
    select: SeriesSelection = Field(default_factory=SeriesSelection, description="which series are sent")
    backlog_hours: float = Field(
        0, ge=0, le=87600, description="at the first start, send what became stable this long before as well"
    )
    poll_s: float = Field(2, ge=0.1, le=600, description="pause between two looks at Orthanc's changes")
    parallel_jobs: int = Field(2, ge=1, le=64, description="series that Orthanc sends at the same time")
    report_wait_s: float = Field(
        60, ge=0, le=86400, description="a report that has not reached Orthanc after this is stored by the bridge"
    )
    metadata_prefix: str = Field(
        "ImageQuality",
        pattern=r"^[A-Za-z][A-Za-z0-9]{0,31}$",
        json_schema_extra={"allowed": "1 to 32 letters and digits"},
        description="beginning of the names of metadata and attachment; `orthanc --check` prints Orthanc's lines",
    )
    first_number: int = Field(
        5101, ge=1024, le=65500, description="first number of the metadata in those lines (UserMetadata)"
    )
    attach_page: bool = Field(True, description="attach the one-page summary (PDF) to the series")
    labels: bool = Field(True, description="put a label with the grade on the series (Orthanc 1.12 and later)")
    retry_first_s: float = Field(
        10, gt=0, le=3600, description="wait after the first failed attempt; doubles each time"
    )
    retry_max_s: float = Field(600, gt=0, le=86400, description="longest wait between two attempts")
    give_up_after_s: float = Field(604800, gt=0, description="age at which a series without a score is given up")

    @model_validator(mode="after")
    def _credentials(self) -> Orthanc:
        passwords = [self.password_file is not None, bool(self.password_variable)].count(True)
        if bool(self.user) != (passwords == 1) or passwords > 1:
            raise ValueError("user goes with either password_file or password_variable")
        if self.user and self.bearer_token_file is not None:
            raise ValueError("either user with its password, or bearer_token_file")
        if self.key is not None and self.certificate is None:
            raise ValueError("certificate is missing: there is a key")
        secret = self.user or self.bearer_token_file is not None
        if secret and self.url.startswith("http://") and not is_loopback(urlsplit(self.url).hostname or ""):
            raise ValueError("credentials need an https:// address (http:// is allowed for this machine only)")
        return self
