"""The sections of delivery: the report, its targets and their routing rules, companion documents, retries."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from dicom_qa_node.config.dicom_services import ClientTls, Peer
from dicom_qa_node.config.fields import SHELL, AeTitle, Name, Port, Section, any_matches, checked_patterns
from dicom_qa_node.domain.results import SeriesResult
from dicom_qa_node.domain.series import SeriesHeader

__all__ = [
    "KINDS",
    "NO_GRADE",
    "Companion",
    "Decision",
    "Deliver",
    "DicomTarget",
    "DicomwebTarget",
    "FolderTarget",
    "Language",
    "Report",
    "ReportForm",
    "Route",
    "SenderTarget",
    "Target",
    "Traits",
    "decide",
    "is_loopback",
    "traits_of",
]

Language = Literal["en", "de", "fr", "es"]


class Companion(Section):
    """Further documents of each report, for viewers that do not show Structured Reports."""

    image: bool = Field(False, description="one page as Secondary Capture image")
    pdf: bool = Field(False, description="the same page as Encapsulated PDF")
    key_objects: bool = Field(
        False, description='Key Object Selection "Quality Issue" that points at the offending slices, if there are any'
    )


NO_GRADE = "none"
"""What a rule calls the grade of a series that was not rated."""


class Route(Section):
    """Which reports a target gets: each list that is given must have an entry that matches."""

    modalities: list[str] = Field(default_factory=list, description=f"modality of the scored series; {SHELL}")
    kinds: list[Literal["ct", "pt", "petct"]] = Field(
        default_factory=list, description="modality class that was scored"
    )
    calling_aes: list[str] = Field(default_factory=list, description=f"AE title that sent the images; {SHELL}")
    stations: list[str] = Field(default_factory=list, description=f"Station Name of the images; {SHELL}")
    scanners: list[str] = Field(
        default_factory=list, description=f"scanner as the log names it: Station Name, else AE title; {SHELL}"
    )
    institutions: list[str] = Field(default_factory=list, description=f"Institution Name of the images; {SHELL}")
    grades: list[Literal["diagnostic", "limited", "non-diagnostic", "none"]] = Field(
        default_factory=list, description="grade of the series; none: not rated"
    )
    decided_by: list[Literal["ct", "pet", "display", "none"]] = Field(
        default_factory=list, description="part of the verdict that gave the score; none: not rated"
    )
    findings: list[str] = Field(
        default_factory=list, description=f"keys of findings, of which the series has one at least; {SHELL}"
    )

    @field_validator("*")
    @classmethod
    def _whole(cls, patterns: list[str]) -> list[str]:
        return checked_patterns(patterns)

    def mismatch(self, traits: Traits) -> str:
        """Return the first rule that keeps a report from the target, in words; empty when it may go there."""
        for name, found in traits.by_rule():
            patterns = getattr(self, name)
            if patterns and not any_matches(found, patterns):
                return f"{name}: {', '.join(found) or 'nothing'} is none of {', '.join(patterns)}"
        return ""


@dataclass(frozen=True, slots=True)
class Traits:
    """What the rules look at; ``host`` is where the latest images came from, empty when that is not known."""

    modality: str
    kind: str
    calling_ae: str
    station: str
    institution: str
    grade: str
    findings: tuple[str, ...] = ()
    host: str = ""
    decided_by: str = NO_GRADE

    def by_rule(self) -> Iterable[tuple[str, Sequence[str]]]:
        """Return the values that each rule of a route is compared with."""
        one = {
            "modalities": self.modality,
            "kinds": self.kind,
            "calling_aes": self.calling_ae,
            "stations": self.station,
            "scanners": self.station or self.calling_ae,
            "institutions": self.institution,
            "grades": self.grade,
            "decided_by": self.decided_by,
        }
        return [*((name, (value,) if value else ()) for name, value in one.items()), ("findings", self.findings)]


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether one target gets a report; ``why_not`` is empty when it does."""

    target: str
    why_not: str = ""


class Routed(Protocol):
    """What a target's section offers to routing."""

    @property
    def kind(self) -> str:
        """Its kind."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def route(self) -> Route:
        """Its rules."""


def traits_of(header: SeriesHeader, result: SeriesResult, calling_ae: str, host: str = "") -> Traits:
    """Return what the rules look at for one scored series."""
    return Traits(
        modality=header.modality,
        kind=result.kind.value,
        calling_ae=calling_ae.strip(),
        station=header.station_name.strip(),
        institution=header.institution_name.strip(),
        grade=NO_GRADE if result.grade is None else result.grade.value,
        findings=tuple(dict.fromkeys(finding.key for finding in result.findings)),
        host=host,
        decided_by=NO_GRADE if result.decided_by is None else result.decided_by.value,
    )


def decide(targets: Sequence[Routed], peers: Sequence[Peer], traits: Traits) -> list[Decision]:
    """Return for every target whether it gets the report, in the order of the configuration."""
    return [
        Decision(item.name, item.route.mismatch(traits) or _unknown_sender(item, peers, traits)) for item in targets
    ]


def _unknown_sender(target: Routed, peers: Sequence[Peer], traits: Traits) -> str:
    if target.kind != "sender":
        return ""
    peer = next((peer for peer in peers if peer.ae_title.strip() == traits.calling_ae), None)
    if peer is None:
        return f"the sender {traits.calling_ae or '(none)'} is not in receive.peers"
    if not peer.port:
        return f"receive.peers gives no port for the sender {traits.calling_ae}"
    return "" if traits.host else f"the address of the sender {traits.calling_ae} is not known"


ReportForm = Literal["auto", "comprehensive3d", "comprehensive", "enhanced"]
_FORM = "SOP class of the report; auto: Comprehensive 3D SR, and where it is refused Comprehensive SR, then Enhanced SR"


class Report(Section):
    """Contents of the Structured Report."""

    manufacturer: str = Field(
        "dicom-qa-node", min_length=1, max_length=64, description="Manufacturer (0008,0070) of the report"
    )
    institution_name: str = Field(
        "", max_length=64, description="Institution Name of the report; empty: that of the images"
    )
    series_number: int = Field(9900, ge=1, le=2147483647, description="Series Number (0020,0011) of report series")
    language: Language = Field("en", description="language of companions; the Structured Report is in English")
    font: Path | None = Field(
        None, strict=False, description="font file to try first on companions; empty: DejaVu Sans, then the system's"
    )
    trend: int = Field(30, ge=0, le=200, description="earlier scores of the same scanner shown on companions")


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
        3600, gt=0, le=604800, description="wait for the commitment before it is asked for again"
    )
    sop_class: ReportForm = Field("auto", description=_FORM)
    route: Route = Field(default_factory=Route, description="which reports this target gets; empty: all")
    companion: Companion = Field(default_factory=Companion, description="further documents for this target")
    resend_on_duplicate: bool = Field(
        False, description="when a scored series comes again unchanged, this target gets its report again"
    )


class DicomwebTarget(Section):
    """An archive that receives reports by STOW-RS (PS3.18 10.5)."""

    kind: Literal["dicomweb"] = Field("dicomweb", description="STOW-RS to a DICOMweb origin server")
    name: Name = Field(description="name used in commands and tables")
    url: str = Field(
        pattern=r"^https?://[^/@?#\s]+(/[^?#\s]*)?$",
        json_schema_extra={"allowed": "address of the DICOMweb service, such as https://pacs.example/dicom-web"},
        description="base address of the service, without /studies, user or password",
    )
    user: str = Field("", max_length=256, description="user of basic authentication; needs password_file")
    password_file: Path | None = Field(None, strict=False, description="file that holds the password and nothing else")
    bearer_token_file: Path | None = Field(
        None, strict=False, description="file that holds the bearer token and nothing else; read again at each attempt"
    )
    ca: Path | None = Field(
        None, strict=False, description="PEM file with the CAs of the server's certificate; empty: those of the system"
    )
    certificate: Path | None = Field(
        None, strict=False, description="PEM file with the node's client certificate; empty: the node shows none"
    )
    key: Path | None = Field(
        None, strict=False, description="PEM file with its private key, not encrypted; empty: in the certificate's file"
    )
    timeout_s: float = Field(30, gt=0, le=600, description="longest wait for an answer")
    sop_class: ReportForm = Field("auto", description=_FORM)
    route: Route = Field(default_factory=Route, description="which reports this target gets; empty: all")
    companion: Companion = Field(default_factory=Companion, description="further documents for this target")
    resend_on_duplicate: bool = Field(
        False, description="when a scored series comes again unchanged, this target gets its report again"
    )

    @model_validator(mode="after")
    def _credentials(self) -> DicomwebTarget:
        if bool(self.user) != (self.password_file is not None):
            raise ValueError("user and password_file go together")
        if self.user and self.bearer_token_file is not None:
            raise ValueError("either user and password_file, or bearer_token_file")
        if self.key is not None and self.certificate is None:
            raise ValueError("certificate is missing: there is a key")
        secret = self.user or self.bearer_token_file is not None or self.certificate is not None
        if secret and self.url.startswith("http://") and not is_loopback(urlsplit(self.url).hostname or ""):
            raise ValueError("credentials need an https:// address (http:// is allowed for this machine only)")
        return self


class SenderTarget(Section):
    """The application entity that sent the images: the port comes from `receive.peers`, the host from its call."""

    kind: Literal["sender"] = Field("sender", description="C-STORE back to the AE that sent the images")
    name: Name = Field(description="name used in commands and tables")
    timeout_s: float = Field(30, gt=0, le=600, description="longest wait for an answer")
    sop_class: ReportForm = Field("auto", description=_FORM)
    route: Route = Field(default_factory=Route, description="which reports this target gets; empty: all")
    companion: Companion = Field(default_factory=Companion, description="further documents for this target")
    resend_on_duplicate: bool = Field(
        False, description="when a scored series comes again unchanged, this target gets its report again"
    )


class FolderTarget(Section):
    """A folder that receives reports as Part 10 files."""

    kind: Literal["folder"] = Field("folder", description="Part 10 files in a folder")
    name: Name = Field(description="name used in commands and tables")
    path: Path = Field(strict=False, description="folder to write to (created if absent)")
    sop_class: Literal["comprehensive3d", "comprehensive", "enhanced"] = Field(
        "comprehensive3d", description="SOP class of the report"
    )
    route: Route = Field(default_factory=Route, description="which reports this target gets; empty: all")
    companion: Companion = Field(default_factory=Companion, description="further documents for this target")
    resend_on_duplicate: bool = Field(
        False, description="when a scored series comes again unchanged, this target gets its report again"
    )


KINDS: dict[str, type[Section]] = {
    "dicom": DicomTarget,
    "dicomweb": DicomwebTarget,
    "folder": FolderTarget,
    "sender": SenderTarget,
}

Target = Annotated[DicomTarget | DicomwebTarget | FolderTarget | SenderTarget, Field(discriminator="kind")]


class Deliver(Section):
    """Where reports go and how failures are retried."""

    targets: list[Target] = Field(default_factory=list, description="the receivers of reports")
    retry_first_s: float = Field(5, gt=0, le=3600, description="wait after the first failed attempt; doubles each time")
    retry_max_s: float = Field(900, gt=0, le=86400, description="longest wait between two attempts")
    give_up_after_s: float = Field(604800, gt=0, description="age at which an undelivered report is parked")
    lease_s: float = Field(
        120, ge=5, le=3600, description="a delivery worker that is silent for this long loses its delivery"
    )

    def resending(self) -> list[str]:
        """Return the names of the targets that get a report again when its series comes again."""
        return [target.name for target in self.targets if target.resend_on_duplicate]

    @model_validator(mode="after")
    def _unique_names(self) -> Deliver:
        names = [target.name for target in self.targets]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"target names must be unique; used twice: {', '.join(twice)}")
        return self


def is_loopback(host: str) -> bool:
    """Whether a host name or address stands for this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
