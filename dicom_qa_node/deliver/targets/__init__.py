"""The receivers of reports, one module per kind; `open_target` finds it by the ``kind`` in the configuration."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence

from dicom_qa_node.config import Peer, Target
from dicom_qa_node.deliver.targets.base import DeliveryTarget
from dicom_qa_node.domain.errors import Misconfigured

__all__ = ["open_target", "target_kinds"]


def target_kinds() -> list[str]:
    """Return the kinds of targets there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


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
    if settings.kind not in target_kinds():
        raise Misconfigured(f"target {settings.name} has the unknown kind {settings.kind}")
    module = importlib.import_module(f"{__name__}.{settings.kind}")
    target: DeliveryTarget = module.open_target(settings, calling_ae, peers)
    return target
