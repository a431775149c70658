"""States of a series and of a delivery; the same words in tables, commands, pages and documents."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["BridgeState", "DeliveryState", "SeriesState"]


class SeriesState(StrEnum):
    """Where a series stands on its way; each step reads one state and writes the next in one transaction."""

    RECEIVING = "RECEIVING"
    COMPLETE = "COMPLETE"
    SCORING = "SCORING"
    SCORED = "SCORED"
    REPORTED = "REPORTED"
    DELIVERED = "DELIVERED"
    PARKED = "PARKED"


class DeliveryState(StrEnum):
    """Where one report stands on its way to one target."""

    PENDING = "PENDING"
    SENDING = "SENDING"
    DELIVERED = "DELIVERED"
    PARKED = "PARKED"


class BridgeState(StrEnum):
    """Where a series of Orthanc stands for the bridge: sent to the node, reported, its score written back."""

    WAITING = "WAITING"
    SENDING = "SENDING"
    SENT = "SENT"
    REPORTED = "REPORTED"
    MARKED = "MARKED"
    FAILED = "FAILED"
