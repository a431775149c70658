"""The sections of the web role: where it listens, who may log in, and where the audit log goes."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from dicom_qa_node.config.fields import ListenPort, Port, Section

__all__ = ["PLACEHOLDERS", "AuditSyslog", "Oidc", "Viewer", "Web"]

PLACEHOLDERS = ("StudyInstanceUID", "SeriesInstanceUID", "PatientID", "AccessionNumber")
"""What may stand in braces in the address of a viewer."""

RoleName = Literal["viewer", "reviewer", "admin"]


class Oidc(Section):
    """Login by an OpenID Connect provider."""

    issuer: str = Field("", description="address of the provider, as in its tokens; empty: local accounts only")
    client_id: str = Field("", description="what this node is called at the provider")
    client_secret_file: Path | None = Field(None, strict=False, description="file that holds the client secret alone")
    label: str = Field("Log in with your hospital account", description="words on the button")
    scopes: list[str] = Field(default_factory=lambda: ["openid", "profile", "email"], description="what is asked for")
    name_claim: str = Field("preferred_username", min_length=1, description="claim that becomes the login name")
    role_claim: str = Field("groups", min_length=1, description="claim that holds the user's groups or roles")
    viewers: list[str] = Field(default_factory=list, description="values of role_claim that make a viewer")
    reviewers: list[str] = Field(default_factory=list, description="values of role_claim that make a reviewer")
    admins: list[str] = Field(default_factory=list, description="values of role_claim that make an administrator")
    timeout_s: float = Field(10, gt=0, le=60, description="longest wait for the provider")

    @property
    def enabled(self) -> bool:
        """Whether a provider is configured."""
        return bool(self.issuer)

    @model_validator(mode="after")
    def _complete(self) -> Oidc:
        if self.issuer and (not self.client_id or self.client_secret_file is None):
            raise ValueError("issuer needs client_id and client_secret_file too")
        parts = urlsplit(self.issuer)
        if self.issuer and parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
            raise ValueError("issuer must be an https address (http only on loopback)")
        if self.issuer and not (self.viewers or self.reviewers or self.admins):
            raise ValueError("issuer needs at least one value in viewers, reviewers or admins")
        return self


class AuditSyslog(Section):
    """The audit log as DICOM audit messages (PS3.15 A.5) to a syslog server."""

    host: str = Field("", description="audit record repository; empty: the audit log stays in the database")
    port: Port = Field(6514, description="its port (RFC 5425: 6514)")
    transport: Literal["tls", "tcp", "udp"] = Field("tls", description="RFC 5425, RFC 6587 or RFC 5426")
    ca_file: Path | None = Field(
        None, strict=False, description="certificates that sign the server's; empty: the system's"
    )
    certificate: Path | None = Field(None, strict=False, description="certificate of this node for the server")
    key: Path | None = Field(None, strict=False, description="its private key")
    timeout_s: float = Field(10, gt=0, le=60, description="longest wait for the server")

    @model_validator(mode="after")
    def _pair(self) -> AuditSyslog:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        return self


class Viewer(Section):
    """A viewer that opens a series from the pages."""

    name: str = Field(min_length=1, max_length=40, description="word of the link")
    url: str = Field(
        min_length=1,
        max_length=1000,
        description="address, percent-encoded, with {StudyInstanceUID}, {SeriesInstanceUID}, {PatientID} or "
        "{AccessionNumber}",
    )

    @property
    def scheme(self) -> str:
        """The scheme of the address, in lower case."""
        return self.url.partition(":")[0].lower()

    @model_validator(mode="after")
    def _readable(self) -> Viewer:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]+", self.url):
            raise ValueError(f"url of {self.name!r} is not an address: a scheme, then printable ASCII without spaces")
        if re.search(r"[<>\"\\^`|']", self.url):
            raise ValueError(f"url of {self.name!r} holds a character that must be percent-encoded")
        found = re.findall(r"\{([^{}]*)\}", self.url)
        unknown = sorted(set(found) - set(PLACEHOLDERS))
        if unknown or self.url.count("{") != len(found) or self.url.count("}") != len(found):
            named = ", ".join(f"{{{name}}}" for name in unknown) or "a brace without its counterpart"
            raise ValueError(f"url of {self.name!r} holds {named}; it may hold {{{'}, {'.join(PLACEHOLDERS)}}}")
        if not {"StudyInstanceUID", "SeriesInstanceUID", "AccessionNumber"} & set(found):
            raise ValueError(f"url of {self.name!r} names no study: add {{StudyInstanceUID}}")
        if self.scheme in ("http", "https") and not _fixed_host(self.url):
            raise ValueError(f"url of {self.name!r} has no host, or a placeholder in it")
        return self


def _fixed_host(url: str) -> bool:
    host = urlsplit(url).netloc
    return bool(host) and "{" not in host and "@" not in host


_SCHEMES = ("https", "http", "weasis")
_NEVER = ("javascript", "vbscript", "data", "file", "blob", "about", "view-source", "filesystem")


class Web(Section):
    """The web role: pages, API, health and metrics."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: ListenPort = Field(8080, description="TCP port to listen on; 0 picks a free one")
    public_url: str = Field(
        "",
        pattern=r"^(https?://[A-Za-z0-9.\-]+(:\d+)?|https?://\[[0-9a-fA-F:]+\](:\d+)?|)(/[A-Za-z0-9._~\-]+)*/?$",
        json_schema_extra={"allowed": "http or https address with an optional path, or empty"},
        description="address that users type, with the path prefix of a proxy; empty: http://host:port",
    )
    allowed_hosts: list[str] = Field(
        default_factory=list, description="further host names in requests; those of public_url, host and loopback are"
    )
    trusted_proxies: list[str] = Field(
        default_factory=list, description="addresses or networks whose X-Forwarded-For, -Proto, -Prefix are believed"
    )
    tls_certificate: Path | None = Field(None, strict=False, description="certificate chain (PEM), to serve https")
    tls_key: Path | None = Field(None, strict=False, description="private key (PEM)")
    allow_plain_http: bool = Field(
        False, description="listen beyond loopback without TLS or a proxy: passwords cross the network readable"
    )
    viewer_sees_patients: bool = Field(False, description="the role viewer sees names and identifiers of patients")
    metrics_need_token: bool = Field(False, description="/metrics asks for an API token (role viewer)")
    session_idle_minutes: float = Field(30, gt=0, le=1440, description="a session ends after this without a request")
    session_hours: float = Field(12, gt=0, le=168, description="a session ends after this in any case")
    password_min_length: int = Field(12, ge=8, le=64, description="shortest password")
    password_memory_mb: int = Field(64, ge=8, le=1024, description="memory of one argon2id hash")
    password_passes: int = Field(3, ge=1, le=20, description="passes of one argon2id hash")
    setup_link_hours: float = Field(24, gt=0, le=720, description="how long a set-up or invitation link works")
    setup_link_file: Path | None = Field(
        None, strict=False, description="file for the first set-up link; empty: setup-link beside the spool folder"
    )
    lockout_failures: int = Field(5, ge=1, le=100, description="wrong passwords before waiting begins")
    lockout_max_minutes: float = Field(15, gt=0, le=1440, description="longest wait after wrong passwords")
    login_per_minute: int = Field(30, ge=1, le=10000, description="login attempts from one address")
    api_per_minute: int = Field(600, ge=1, le=1000000, description="API calls of one token or session")
    max_body_kb: int = Field(1024, ge=16, le=1048576, description="largest body of a request")
    review_days: int = Field(30, ge=1, le=3650, description="age in days after which unassigned series leave the queue")
    viewers: list[Viewer] = Field(default_factory=list, description="viewers that open a series from the pages")
    viewer_schemes: list[str] = Field(
        default_factory=list, description="further schemes of viewer addresses; https, http and weasis are allowed"
    )
    oidc: Oidc = Field(default_factory=Oidc, description="login by an OpenID Connect provider")
    syslog: AuditSyslog = Field(default_factory=AuditSyslog, description="the audit log as DICOM audit messages")

    @property
    def prefix(self) -> str:
        """Return the path under which a proxy shows the pages, such as ``/quality``; empty for the root."""
        return urlsplit(self.public_url).path.rstrip("/")

    @property
    def https(self) -> bool:
        """Whether users reach the pages by https, as far as the configuration says."""
        return self.tls_certificate is not None or self.public_url.startswith("https:")

    @model_validator(mode="after")
    def _safe(self) -> Web:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        for entry in self.trusted_proxies:
            try:
                ipaddress.ip_network(entry, strict=False)
            except ValueError as error:
                raise ValueError(f"trusted_proxies: {entry!r} is not an address or network") from error
        self._check_viewers()
        covered = self.tls_certificate or self.trusted_proxies or self.allow_plain_http
        if not _is_loopback(self.host) and not covered:
            raise ValueError(
                f"host {self.host} is reachable from other machines, and passwords would cross the network readable: "
                "set tls_certificate and tls_key, or trusted_proxies, or allow_plain_http"
            )
        return self

    def _check_viewers(self) -> None:
        for scheme in self.viewer_schemes:
            if not re.fullmatch(r"[a-z][a-z0-9+.-]{0,30}", scheme) or scheme in _NEVER:
                raise ValueError(f"viewer_schemes: {scheme!r} is not a scheme that a link may have")
        for viewer in self.viewers:
            if viewer.scheme not in (*_SCHEMES, *self.viewer_schemes) or viewer.scheme in _NEVER:
                raise ValueError(f"viewers: the scheme of {viewer.name!r}, {viewer.scheme!r}, is not in viewer_schemes")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
