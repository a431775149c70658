"""The section of the backfill: where past series come from, and how slowly."""

from __future__ import annotations

from pydantic import Field, model_validator

from dicom_qa_node.config.alerts import ClockTime
from dicom_qa_node.config.delivery import Deliver, DicomTarget
from dicom_qa_node.config.dicom_services import ClientTls
from dicom_qa_node.config.fields import AeTitle, Name, Port, Section

__all__ = ["Backfill", "RetrieveSource", "source_named", "source_names"]


class RetrieveSource(Section):
    """An archive that answers C-FIND and C-MOVE and knows this node as a move destination."""

    name: Name = Field(description="name used in commands and pages")
    host: str = Field(min_length=1, description="host name or address")
    port: Port = Field(104, description="TCP port")
    ae_title: AeTitle = Field(description="AE title of the archive")
    timeout_s: float = Field(30, gt=0, le=600, description="longest wait for an answer to a query")
    tls: ClientTls = Field(default_factory=ClientTls, description="TLS towards this archive")


class Backfill(Section):
    """Past series, brought in from an archive behind all live work."""

    sources: list[RetrieveSource] = Field(
        default_factory=list, description="archives to query; the targets of kind dicom can be named, too"
    )
    rate_per_hour: float = Field(
        60, gt=0, le=3600, description="series retrieved in an hour, unless a run sets another"
    )
    most_waiting: int = Field(
        20, ge=1, le=1000, description="series brought in that may wait for a scorer before the next one is retrieved"
    )
    retrieve_timeout_s: float = Field(
        600, gt=0, le=7200, description="longest silence of the archive while it sends a series"
    )
    active_from: ClockTime = Field("", description="begin of the hours in which series are retrieved; empty: always")
    active_until: ClockTime = Field(
        "", description="end of these hours, local time of the host; may be on the next day"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Backfill:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError("the names of sources must be unique")
        if bool(self.active_from) != bool(self.active_until):
            raise ValueError("active_from and active_until go together")
        return self

    def active(self, clock_time: str) -> bool:
        """Return whether series are retrieved at a local time such as ``22:30``."""
        if not self.active_from:
            return True
        if self.active_from <= self.active_until:
            return self.active_from <= clock_time < self.active_until
        return clock_time >= self.active_from or clock_time < self.active_until


def source_named(backfill: Backfill, deliver: Deliver, name: str) -> RetrieveSource | None:
    """Return the archive of a name: of ``backfill.sources``, else a target of kind dicom; None if there is none."""
    for source in backfill.sources:
        if source.name == name:
            return source
    for target in deliver.targets:
        if isinstance(target, DicomTarget) and target.name == name:
            return RetrieveSource(
                name=target.name, host=target.host, port=target.port, ae_title=target.ae_title,
                timeout_s=target.timeout_s, tls=target.tls,
            )  # fmt: skip
    return None


def source_names(backfill: Backfill, deliver: Deliver) -> list[str]:
    """Return the names that `source_named` knows."""
    targets = [target.name for target in deliver.targets if isinstance(target, DicomTarget)]
    return list(dict.fromkeys([*(source.name for source in backfill.sources), *targets]))
