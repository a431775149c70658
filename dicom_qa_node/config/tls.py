"""The sections of TLS: how the node answers on its secure port, and how it calls a peer that wants TLS."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from dicom_qa_node.config.base import ListenPort, Section

__all__ = ["ClientTls", "Fingerprint", "ServerTls"]


def _plain_fingerprint(value: Any) -> Any:
    return re.sub(r"[: ]", "", value).lower() if isinstance(value, str) else value


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
