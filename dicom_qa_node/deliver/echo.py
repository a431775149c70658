"""Asks a configured target whether it is there, for ``dicom-qa-node echo NAME``."""

from __future__ import annotations

from dicom_qa_node.config import Config
from dicom_qa_node.deliver.targets import open_target
from dicom_qa_node.deliver.targets.base import Answer
from dicom_qa_node.deliver.targets.dicom import Pacs, Peer
from dicom_qa_node.domain.errors import Misconfigured

__all__ = ["echo_peer", "echo_target"]


def echo_peer(calling: str, called: str, host: str, port: int, timeout_s: float = 5.0) -> Answer:
    """Send a C-ECHO to an application entity that no configuration names yet.

    Raises
    ------
    Refused, Deferred
        It does not want to talk to this node, or is not there.
    """
    return Pacs(Peer(host, port, called, calling, timeout_s=timeout_s)).check()


def echo_target(config: Config, name: str) -> Answer:
    """Check the target of that name: C-ECHO to a PACS, a query to a DICOMweb service, a trial file in a folder.

    Raises
    ------
    Misconfigured
        No target has that name.
    Refused, Deferred
        The target does not want to talk to this node, or is not there.
    """
    for settings in config.deliver.targets:
        if settings.name == name:
            return open_target(settings, config.ae_title, config.receive.peers).check()
    known = ", ".join(sorted(settings.name for settings in config.deliver.targets)) or "none"
    raise Misconfigured(f"no target is called {name!r}; deliver.targets has: {known}")
