"""Which code receives P-DATA: the node's own path, or pynetdicom's where its version is not known to fit."""

from __future__ import annotations

import logging
from typing import Literal

import pynetdicom

from dicom_qa_node.log import log_event

__all__ = ["KNOWN_RELEASES", "uses_own_path"]

_LOGGER = logging.getLogger(__name__)

KNOWN_RELEASES = ("3.0",)
"""Releases of pynetdicom whose private parts `fastpath` is known to fit, as ``major.minor``."""


def uses_own_path(setting: Literal["auto", "on", "off"]) -> bool:
    """Return whether `fastpath` receives P-DATA; a fallback that nobody asked for is a warning in the log.

    Parameters
    ----------
    setting
        The value of ``receive.own_pdata_path``.
    """
    if setting != "auto":
        return setting == "on"
    version = pynetdicom.__version__
    if ".".join(version.split(".")[:2]) in KNOWN_RELEASES:
        return True
    log_event(
        _LOGGER,
        logging.WARNING,
        "own_pdata_path_unavailable",
        pynetdicom=version,
        known=", ".join(KNOWN_RELEASES),
        reason="images are received by pynetdicom itself, which is slower",
    )
    return False
