"""Certificates made for a test: authorities, and what they issue, as PEM files."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Authority", "Pair"]

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key."""

    certificate: Path
    key: Path

    @property
    def fingerprint(self) -> str:
        der = x509.load_pem_x509_certificate(self.certificate.read_bytes()).public_bytes(Encoding.DER)
        return hashlib.sha256(der).hexdigest()

    def for_dcmtk(self) -> tuple[Path, Path]:
        return self.key, self.certificate


class Authority:
    """A certification authority in a folder of its own; ``ca`` is its certificate."""

    def __init__(self, folder: Path, name: str = "Hospital CA") -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self._key = rsa.generate_private_key(65537, 2048)
        self._name = _named(name)
        self.ca = folder / "ca.pem"
        basics = x509.BasicConstraints(ca=True, path_length=None)
        certificate = _builder(self._name, self._name, self._key, -1, 3650).add_extension(basics, critical=True)
        self.ca.write_bytes(certificate.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        hosts: Sequence[str] = ("localhost", "127.0.0.1"),
        starts_days: float = -1,
        ends_days: float = 365,
        elliptic: bool = False,
        mode: int = 0o600,
    ) -> Pair:
        """Write a certificate for the host names and its key."""
        key: Key = ec.generate_private_key(ec.SECP256R1()) if elliptic else rsa.generate_private_key(65537, 2048)
        certificate = (
            _builder(_named(name), self._name, key, starts_days, ends_days)
            .add_extension(x509.SubjectAlternativeName(list(map(_host, hosts))), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        pair.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        pair.key.touch(mode)
        pair.key.chmod(mode)
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return pair

    def revoke(self, *pairs: Pair, ends_days: float = 7) -> bytes:
        """Return a revocation list with the certificates of these pairs, as PEM."""
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(now - dt.timedelta(days=30)).next_update(now + dt.timedelta(days=ends_days))
        for pair in pairs:
            serial = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Key, starts_days: float, ends_days: float
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=starts_days))
        .not_valid_after(now + dt.timedelta(days=ends_days))
    )
