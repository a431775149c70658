"""The sections of the DICOM services: TLS, C-STORE SCP, spool, completion, query/retrieve."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from dicom_qa_node.config.fields import AeTitle, ListenPort, Port, Section, Site

__all__ = ["ClientTls", "Complete", "Destination", "Fingerprint", "Peer", "Query", "Receive", "ServerTls", "Spool"]


def _plain_fingerprint(value: Any) -> Any:
    return re.sub(r"[: ]", "", value).lower() if isinstance(value, str) else value


def _on_or_off(value: Any) -> Any:
    """Return what a person meant: YAML 1.1 reads a plain on or off as a truth value."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Fingerprint = Annotated[
    str,
    BeforeValidator(_plain_fingerprint),
    Field(
        pattern=r"^([0-9a-f]{64})?$",
        json_schema_extra={"allowed": "empty, or 64 hexadecimal digits, colons between them or not"},
    ),
]
"""The SHA-256 of a certificate in DER, as ``openssl x509 -noout -fingerprint -sha256`` prints it."""


class ServerTls(Section):
    """The receiver's port for DICOM over TLS (PS3.15 B.12)."""

    enabled: bool = Field(False, description="accept associations over TLS on a port of its own")
    port: ListenPort = Field(2762, description="TCP port for TLS; 0 picks a free one")
    only: bool = Field(False, description="accept nothing without TLS: receive.port is not opened")
    certificate: Path | None = Field(
        None, strict=False, description="PEM file with the node's certificate, and those between it and its CA"
    )
    key: Path | None = Field(
        None, strict=False, description="PEM file with the private key, not encrypted; empty: in the certificate's file"
    )
    ca: Path | None = Field(None, strict=False, description="PEM file with the CAs of the peers' certificates")
    crl: Path | None = Field(
        None,
        strict=False,
        description="PEM file with the revocation lists of those CAs, all of them; empty: no certificate is revoked",
    )
    require_certificate: bool = Field(True, description="refuse peers without a certificate of those CAs")

    @model_validator(mode="after")
    def _has_files(self) -> ServerTls:
        if self.enabled and self.certificate is None:
            raise ValueError("certificate is missing: TLS is enabled")
        if self.enabled and self.require_certificate and self.ca is None:
            raise ValueError("ca is missing: without it no peer's certificate can be checked")
        if self.crl is not None and self.ca is None:
            raise ValueError("ca is missing: crl holds the revocation lists of its CAs")
        if self.only and not self.enabled:
            raise ValueError("only without enabled leaves no port to receive on")
        return self


class ClientTls(Section):
    """TLS towards one peer that the node calls (PS3.15 B.12)."""

    enabled: bool = Field(False, description="call this peer over TLS")
    ca: Path | None = Field(
        None, strict=False, description="PEM file with the CAs of the peer's certificate; empty: those of the system"
    )
    crl: Path | None = Field(
        None,
        strict=False,
        description="PEM file with the revocation lists of those CAs, all of them; empty: no certificate is revoked",
    )
    certificate: Path | None = Field(
        None, strict=False, description="PEM file with the node's certificate; empty: the node shows none"
    )
    key: Path | None = Field(
        None, strict=False, description="PEM file with its private key, not encrypted; empty: in the certificate's file"
    )
    check_host_name: bool = Field(True, description="the peer's certificate must name its host")

    @model_validator(mode="after")
    def _key_has_certificate(self) -> ClientTls:
        if self.key is not None and self.certificate is None:
            raise ValueError("certificate is missing: there is a key")
        return self


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
    unlisted_associations: int = Field(
        16,
        ge=1,
        le=1000,
        description="associations at once of callers that are not listed in peers, half of them with one AE title, "
        "three quarters from one address; without a list the limit is max_associations",
    )
    max_pdu_bytes: int = Field(1048576, ge=4096, le=16777216, description="largest P-DATA-TF PDU the node accepts")
    request_timeout_s: float = Field(
        5, gt=0, le=600, description="longest wait for the association request of a new connection, TLS included"
    )
    acse_timeout_s: float = Field(30, gt=0, le=600, description="longest wait for association messages")
    dimse_timeout_s: float = Field(
        60,
        gt=0,
        le=3600,
        description="longest wait for the rest of a DIMSE message; a whole message may take longer by the time of its "
        "bytes at min_rate_kb_s",
    )
    min_rate_kb_s: float = Field(
        4, gt=0, le=1_000_000, description="lowest rate of a message in KB a second; who sends slower is dropped"
    )
    network_timeout_s: float = Field(120, gt=0, le=86400, description="longest silence on an open association")
    own_pdata_path: Annotated[Literal["auto", "on", "off"], BeforeValidator(_on_or_off)] = Field(
        "auto",
        description="whether C-STORE data sets are received by the node's own code, which is faster than "
        "pynetdicom's; auto: with the versions of pynetdicom it is known to work with, by pynetdicom with any other",
    )
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
    scrub_mb_s: float = Field(
        0.5,
        ge=0,
        le=1000,
        description="MB a second at which stored files are read again and compared with their checksums; 0: never",
    )
    quarantine_percent: float = Field(
        5,
        gt=0,
        le=50,
        description="share of the disk that quarantine may take; what was refused longest ago leaves first",
    )
    keep_pictures_days: float = Field(
        1095,
        ge=0,
        description="days the pictures of a scored version stay for the pages; its result is kept permanently",
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


class Destination(Section):
    """An application entity that objects can be moved to."""

    ae_title: AeTitle = Field(description="AE title, as a C-MOVE request names it")
    host: str = Field(min_length=1, description="host name or address")
    port: Port = Field(104, description="TCP port")
    tls: ClientTls = Field(default_factory=ClientTls, description="TLS towards this destination")


class Query(Section):
    """The query/retrieve SCP: reports, and images if wished, for those who ask."""

    enabled: bool = Field(True, description="answer C-FIND, C-MOVE, C-GET, and DICOMweb on the web role")
    images: bool = Field(False, description="serve the images that are still in the spool, too")
    destinations: list[Destination] = Field(default_factory=list, description="where C-MOVE may send objects")
    timeout_s: float = Field(30, gt=0, le=600, description="longest wait for an answer of a destination")
    search_s: float = Field(
        60, gt=0, le=3600, description="longest time one query may search; the time to send its answers is not counted"
    )

    @model_validator(mode="after")
    def _unique_titles(self) -> Query:
        titles = [destination.ae_title.strip() for destination in self.destinations]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise ValueError(f"AE titles of destinations must be unique; used twice: {', '.join(twice)}")
        return self
