"""The section of QC phantoms: how they are recognised, which are analysed, and when each is due."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from dicom_qa_node.config.fields import SHELL, Name, Section, any_matches, checked_patterns
from dicom_qa_node.domain.qc_phantoms import PhantomKind

__all__ = ["Phantom", "PhantomRule", "Phantoms", "phantom_for"]

Kind = Literal[
    "catphan503", "catphan504", "catphan600", "catphan604", "catphan700", "acr_ct", "water", "nema_iq_pet",
    "uniform_pet",
]  # fmt: skip


class PhantomRule(Section):
    """Series that show a QC phantom: each list that is given must have an entry that matches."""

    calling_aes: list[str] = Field(default_factory=list, description=f"AE title that sent the images; {SHELL}")
    stations: list[str] = Field(default_factory=list, description=f"Station Name of the images; {SHELL}")
    protocols: list[str] = Field(default_factory=list, description=f"Protocol Name of the images; {SHELL}")
    patient_ids: list[str] = Field(default_factory=list, description=f"Patient ID of the images; {SHELL}")

    @field_validator("calling_aes", "stations", "protocols", "patient_ids")
    @classmethod
    def _whole(cls, patterns: list[str]) -> list[str]:
        return checked_patterns(patterns)

    @model_validator(mode="after")
    def _says_something(self) -> PhantomRule:
        if not (self.calling_aes or self.stations or self.protocols or self.patient_ids):
            raise ValueError("a rule of phantoms.recognise needs one list at least: it would fit every series")
        return self

    def fits(self, *, calling_ae: str, station: str, protocol: str, patient_id: str) -> bool:
        """Whether this rule is about a series."""
        pairs = (
            (calling_ae, self.calling_aes),
            (station, self.stations),
            (protocol, self.protocols),
            (patient_id, self.patient_ids),
        )
        return all(any_matches([value.strip()], patterns) for value, patterns in pairs if patterns)

    def words(self) -> str:
        """Return the rule as a reader of the configuration knows it."""
        named = (
            ("calling AE", self.calling_aes),
            ("station", self.stations),
            ("protocol", self.protocols),
            ("patient ID", self.patient_ids),
        )
        return ", ".join(f"{name} {' or '.join(patterns)}" for name, patterns in named if patterns)


class Phantom(Section):
    """A phantom that is scanned for quality control on some scanner with some protocol."""

    name: Name = Field(description="name of the phantom, as pages and messages show it")
    kind: Kind = Field("water", description="what it is; it is analysed as this and as nothing else")
    scanner: str = Field("*", min_length=1, description="pattern of the scanner's name (Station Name)")
    protocol: str = Field("*", min_length=1, description="pattern of the protocol")
    schedule: Literal["none", "daily", "workdays", "weekly", "monthly"] = Field(
        "none", description="how often it is due: each day, Monday to Friday, once a week, once a month"
    )
    sphere_to_background: float | None = Field(
        None, gt=1, le=100, description="activity of the spheres over the background (nema_iq_pet); empty: unknown"
    )

    @property
    def what(self) -> PhantomKind:
        """The kind as an enum."""
        return PhantomKind(self.kind)

    def scanned_on(self, scanner: str) -> bool:
        """Whether it belongs to a scanner of this name."""
        return _like(scanner, self.scanner)


class Phantoms(Section):
    """QC phantoms: they get no score and no grade; those that are listed are analysed on arrival."""

    recognise: list[PhantomRule] = Field(
        default_factory=list,
        description="series that show a phantom, besides those with Quality Control Subject = YES and those that are "
        "both named and shaped like one",
    )
    analyse: list[Phantom] = Field(
        default_factory=list, description="phantoms by scanner and protocol; the first that fits a series counts"
    )
    environment_dir: Path = Field(
        Path("var/dicom-qa-node/pylinac"), strict=False, description="folder of the environment of pylinac"
    )
    timeout_s: float = Field(300, ge=10, le=3600, description="longest time that one analysis by pylinac may take")
    memory_mb: int = Field(
        4000, ge=1000, le=64000, description="address space of one analysis by pylinac; it needs 2000 or more"
    )
    install_timeout_s: float = Field(1800, ge=60, le=14400, description="longest time that installing pylinac may take")

    @model_validator(mode="after")
    def _consistent(self) -> Phantoms:
        names = [phantom.name for phantom in self.analyse]
        if len(set(names)) < len(names):
            raise ValueError("the names of phantoms must be unique")
        return self


def phantom_for(phantoms: Sequence[Phantom], *, scanner: str, protocol: str, modality: str) -> Phantom | None:
    """Return the first phantom that is configured for a scanner and protocol, None without one."""
    for phantom in phantoms:
        fits = phantom.scanned_on(scanner) and _like(protocol, phantom.protocol)
        if fits and phantom.what.modality == modality:
            return phantom
    return None


def _like(value: str, pattern: str) -> bool:
    return fnmatchcase(value.strip().upper(), pattern.upper())
