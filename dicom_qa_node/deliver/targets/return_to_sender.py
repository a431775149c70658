"""Sends reports back to the application entity that sent the images (C-STORE)."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from dicom_qa_node.config import DicomTarget, Peer, SenderTarget
from dicom_qa_node.deliver.targets import dicom
from dicom_qa_node.deliver.targets.base import Answer, DeliveryItem, Refused

__all__ = ["ReturnToSender", "open_target"]


class ReturnToSender:
    """Every peer of ``receive.peers`` that names a port, each called at the address that its images came from."""

    def __init__(self, settings: SenderTarget, calling_ae: str, peers: Sequence[Peer]) -> None:
        self._settings, self._calling_ae = settings, calling_ae
        self._peers = {peer.ae_title.strip(): peer for peer in peers if peer.port}

    def send(self, shipment: DeliveryItem) -> Answer:
        """Send the report to the sender of its images; see `DeliveryTarget.send`."""
        sender = shipment.sender
        peer = self._peers.get(sender.ae_title.strip())
        if peer is None or not sender.host:
            raise Refused(f"no address of the sender {sender.ae_title or '(unknown)'}; receive.peers needs its port")
        return self._pacs(peer, sender.host).send(shipment)

    def check(self) -> Answer:
        """Send a C-ECHO to every peer whose address the configuration tells; see `DeliveryTarget.check`."""
        known = [(peer, host) for peer in self._peers.values() for host in peer.hosts[:1] if _is_address(host)]
        if not known:
            raise Refused("receive.peers has no peer with a port and a single address")
        for peer, host in known:
            try:
                self._pacs(peer, host).check()
            except Refused as error:
                raise Refused(f"{peer.ae_title.strip()}: {error.status}") from error
        return Answer(f"0x0000 Success from {', '.join(peer.ae_title.strip() for peer, _ in known)}")

    def _pacs(self, peer: Peer, host: str) -> dicom.Pacs:
        target = DicomTarget(
            name=self._settings.name,
            host=host,
            port=peer.port,
            ae_title=peer.ae_title,
            timeout_s=self._settings.timeout_s,
            tls=peer.tls,
            sop_class=self._settings.sop_class,
        )
        return dicom.open_target(target, self._calling_ae, ())


def open_target(settings: SenderTarget, calling_ae: str, peers: Sequence[Peer]) -> ReturnToSender:
    """Return the target of a ``sender`` section."""
    return ReturnToSender(settings, calling_ae, peers)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
