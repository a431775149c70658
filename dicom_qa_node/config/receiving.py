"""The sections of what comes in: the C-STORE SCP, the spool, and when a series counts as complete."""

from __future__ import annotations

import ipaddress
from typing import Literal

from pydantic import Field, field_validator, model_validator

from dicom_qa_node.config.base import AeTitle, ListenPort, Section, Site
from dicom_qa_node.config.tls import ClientTls, Fingerprint, ServerTls

__all__ = ["Complete", "Peer", "Receive", "Spool"]


class Peer(Section):
    """A scanner or workstation that may open associations to the node."""

    ae_title: AeTitle = Field(description="calling AE title of the peer")
    hosts: list[str] = Field(
        default_factory=list, description="IP addresses or CIDR networks it may call from; empty: any"
    )
    max_associations: int = Field(16, ge=1, le=1000, description="associations this peer may hold at once")
    port: ListenPort = Field(
        0, description="TCP port it listens on, for storage commitment results and reports sent back; 0: none"
    )
    certificate_sha256: Fingerprint = Field(
        "", description="SHA-256 fingerprint of its certificate: it may only call over TLS, and with that one"
    )
    tls: ClientTls = Field(default_factory=ClientTls, description="TLS towards that port")

    @field_validator("hosts")
    @classmethod
    def _networks(cls, hosts: list[str]) -> list[str]:
        for host in hosts:
            try:
                ipaddress.ip_network(host, strict=False)
            except ValueError as error:
                raise ValueError("must be IP addresses or CIDR networks, such as 10.1.2.3 or 10.1.0.0/16") from error
        return hosts


class Receive(Section):
    """The C-STORE SCP: where scanners push to."""

    host: str = Field("0.0.0.0", description="address to listen on")
    port: ListenPort = Field(11112, description="TCP port to listen on; 0 picks a free one")
    processes: int = Field(2, ge=1, le=32, description="receiver processes that share the listening socket")
    site: Site = Field(
        "default", description="queue in which the series received here wait; scorers may take from some sites only"
    )
    max_associations: int = Field(64, ge=1, le=1000, description="associations at once, over all processes")
    max_pdu_bytes: int = Field(1048576, ge=4096, le=16777216, description="largest P-DATA-TF PDU the node accepts")
    acse_timeout_s: float = Field(30, gt=0, le=600, description="longest wait for association messages")
    dimse_timeout_s: float = Field(60, gt=0, le=3600, description="longest wait for the rest of a DIMSE message")
    network_timeout_s: float = Field(120, gt=0, le=86400, description="longest silence on an open association")
    require_called_ae: bool = Field(False, description="refuse associations that call another AE title than ours")
    allow_unknown_peers: bool = Field(
        True, description="accept any calling AE and host; false: only those listed in peers"
    )
    peers: list[Peer] = Field(default_factory=list, description="the peers that may connect when unknown ones may not")
    storage_commitment: bool = Field(
        False,
        description="answer storage commitment requests; only for peers that do not delete images on our word, "
        "since images are kept no longer than section spool says",
    )
    tls: ServerTls = Field(default_factory=ServerTls, description="DICOM over TLS on a port of its own")

    @model_validator(mode="after")
    def _unique_titles(self) -> Receive:
        titles = [peer.ae_title.strip() for peer in self.peers]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise ValueError(f"AE titles of peers must be unique; used twice: {', '.join(twice)}")
        if self.tls.enabled and not self.tls.only and self.port and self.port == self.tls.port:
            raise ValueError("port and tls.port must differ")
        return self


class Spool(Section):
    """Disk space and retention of the spool."""

    min_free_mb: int = Field(
        2048, ge=0, description="below this free space C-STORE answers A700 and associations are refused"
    )
    resume_free_mb: int = Field(3072, ge=0, description="receiving resumes above this free space")
    keep_delivered_days: float = Field(7, ge=0, description="days the images of a delivered series stay in the spool")
    keep_parked_days: float = Field(90, ge=0, description="days the images of a parked series stay in the spool")
    keep_quarantine_days: float = Field(
        30, ge=0, description="days objects that were refused on receiving stay in quarantine"
    )
    keep_pictures_days: float = Field(
        1095, ge=0, description="days the pictures of a scored version stay for the pages; its result stays for good"
    )
    await_review: list[Literal["diagnostic", "limited", "non-diagnostic"]] = Field(
        ["non-diagnostic"],
        description="images and pictures of a series with one of these grades stay until somebody has reviewed it",
    )
    leave_early: bool = Field(
        True, description="below resume_free_mb images of delivered series leave before their time, the oldest first"
    )

    @model_validator(mode="after")
    def _resume_above_minimum(self) -> Spool:
        if self.resume_free_mb < self.min_free_mb:
            raise ValueError("resume_free_mb must not be below min_free_mb")
        return self


class Complete(Section):
    """When a series counts as complete."""

    quiet_s: float = Field(
        60, ge=0, le=86400, description="silence after which a series without a known count is complete"
    )
    pair_wait_s: float = Field(900, ge=0, le=86400, description="how long a PET series waits for its CT")
    force_age_s: float = Field(3600, gt=0, le=604800, description="age at which a series is scored whatever is missing")
    sweep_s: float = Field(0.2, ge=0.05, le=60, description="time between two looks at the series in RECEIVING")
