"""A first configuration from a site's answers, and what the administrators of scanners and PACS enter on their side."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

__all__ = [
    "PacsAnswer",
    "ScannerAnswer",
    "SiteAnswers",
    "own_addresses",
    "pacs_sheet",
    "peer_entry",
    "peer_sheet",
    "scanner_sheet",
    "site_yaml",
    "target_entry",
]


@dataclass(frozen=True, slots=True)
class ScannerAnswer:
    """A scanner: ``host`` is the address or network it calls from, "" for any; ``port`` 0 where it listens on none."""

    ae_title: str
    host: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class PacsAnswer:
    """A PACS that takes the reports."""

    name: str
    ae_title: str
    host: str
    port: int = 104


@dataclass(frozen=True, slots=True)
class SiteAnswers:
    """What a site says about itself."""

    ae_title: str = "DICOMQA"
    port: int = 11112
    data_dir: str = "var/dicom-qa-node"
    institution_name: str = ""
    scanners: Sequence[ScannerAnswer] = field(default_factory=tuple)
    pacs: Sequence[PacsAnswer] = field(default_factory=tuple)


_HEAD = """\
# Configuration of this node, written by `dicom-qa-node init`. Every other key has its default:
#   dicom-qa-node config schema
# Check a change before the restart: dicom-qa-node --config FILE config check

"""


def site_yaml(answers: SiteAnswers) -> str:
    """Return the text of a configuration file that holds the answers and nothing else.

    Unknown peers are rejected as soon as a scanner is listed. A PACS is listed among the peers, so that it may query
    the node and send the results of storage commitment.
    """
    peers = [_peer(item) for item in answers.scanners]
    listed = {item.ae_title for item in answers.scanners}
    peers += [_peer(ScannerAnswer(p.ae_title, p.host, p.port)) for p in answers.pacs if p.ae_title not in listed]
    values: dict[str, Any] = {
        "ae_title": answers.ae_title,
        "database_url": _database(answers.data_dir),
        "spool_dir": f"{answers.data_dir.rstrip('/')}/spool",
        "receive": {
            "port": answers.port,
            "allow_unknown_peers": not answers.scanners,
            "require_called_ae": bool(answers.scanners),
            "peers": peers,
        },
        "deliver": {
            "targets": [_target(item) for item in answers.pacs],
        },
    }
    if answers.institution_name:
        values["report"] = {"institution_name": answers.institution_name}
    return _HEAD + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def peer_entry(scanner: ScannerAnswer) -> str:
    """Return the lines for `receive.peers` that admit one more scanner or workstation."""
    return yaml.safe_dump([_peer(scanner)], sort_keys=False, allow_unicode=True)


def target_entry(pacs: PacsAnswer) -> str:
    """Return the lines for `deliver.targets` that send the reports to one more PACS."""
    return yaml.safe_dump([_target(pacs)], sort_keys=False, allow_unicode=True)


def own_addresses() -> list[str]:
    """Return the addresses of this machine that others can reach, without loopback and link-local ones."""
    import psutil

    found = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET
    ]
    return [a for a in found if not (ipaddress.ip_address(a).is_loopback or ipaddress.ip_address(a).is_link_local)]


def peer_sheet(answers: SiteAnswers, addresses: Iterable[str]) -> str:
    """Return what the scanner's and the PACS's administrators enter on their side, as text for a message to them."""
    where = tuple(addresses)
    return "\n".join([scanner_sheet(answers, where), *(pacs_sheet(answers, item, where) for item in answers.pacs)])


def scanner_sheet(answers: SiteAnswers, addresses: Iterable[str]) -> str:
    """Return what the administrators of the scanners enter."""
    names = ", ".join(item.ae_title for item in answers.scanners) or "each scanner"
    return (
        f"On {names}: add a storage destination (Storage SCP) and send CT and PET series to it.\n"
        f"{_node(answers, addresses)}\n"
        "  transfer syntaxes: any; leave storage commitment to the PACS\n"
    )


def pacs_sheet(answers: SiteAnswers, pacs: PacsAnswer, addresses: Iterable[str]) -> str:
    """Return what the administrator of a PACS enters."""
    return (
        f"On the PACS {pacs.name} ({pacs.ae_title}): allow this node to store reports (Storage SCU), "
        "and to be queried if wished.\n"
        f"{_node(answers, addresses)}\n"
        "  SOP class: Comprehensive 3D SR, 1.2.840.10008.5.1.4.1.1.88.34 "
        "(Comprehensive SR …88.33 and Enhanced SR …88.22 are tried where it is refused)\n"
    )


def _node(answers: SiteAnswers, addresses: Iterable[str]) -> str:
    where = ", ".join(addresses) or "the address of this machine"
    return f"  AE title  {answers.ae_title}\n  address   {where}\n  port      {answers.port}"


def _target(pacs: PacsAnswer) -> dict[str, Any]:
    return {"kind": "dicom", "name": pacs.name, "host": pacs.host, "port": pacs.port, "ae_title": pacs.ae_title}


def _peer(scanner: ScannerAnswer) -> dict[str, Any]:
    peer: dict[str, Any] = {"ae_title": scanner.ae_title}
    if _is_network(scanner.host):
        peer["hosts"] = [scanner.host]
    if scanner.port:
        peer["port"] = scanner.port
    return peer


def _is_network(host: str) -> bool:
    try:
        ipaddress.ip_network(host, strict=False)
    except ValueError:
        return False
    return True


def _database(data_dir: str) -> str:
    return f"sqlite:///{data_dir.rstrip('/')}/quality.db"
