"""Delivery targets, one module per kind; `open_target` finds it by the ``kind`` in the configuration."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from dicom_qa_node.config import Peer, Target
from dicom_qa_node.deliver.targets.base import DeliveryTarget
from dicom_qa_node.domain.errors import Misconfigured

__all__ = ["MODULES", "open_target", "target_kinds"]

MODULES = {
    "dicom": "dicom",
    "dicomweb": "dicomweb",
    "folder": "folder",
    "sender": "return_to_sender",
}
"""The module of each kind; it has ``open_target(settings, calling_ae, peers)`` and is imported on first use."""


def target_kinds() -> list[str]:
    """Return the kinds of targets there are."""
    return sorted(MODULES)


def open_target(settings: Target, calling_ae: str, peers: Sequence[Peer] = ()) -> DeliveryTarget:
    """Return the target that a section of the configuration describes; nothing is connected yet.

    Parameters
    ----------
    peers
        Those that send images, ``receive.peers``: where reports can be sent back to.

    Raises
    ------
    Misconfigured
        There is no such kind of target.
    """
    if settings.kind not in MODULES:
        raise Misconfigured(f"target {settings.name} has the unknown kind {settings.kind}")
    module = importlib.import_module(f"{__name__}.{MODULES[settings.kind]}")
    target: DeliveryTarget = module.open_target(settings, calling_ae, peers)
    return target
