"""The three kinds of failure; every part of the flow decides by these types and by nothing else.

A message is written for the operator: what happened, to which object, and what can be done.
It never holds a patient's name or identifier.
"""

from __future__ import annotations

__all__ = ["Misconfigured", "NodeError", "NotFound", "Permanent", "Transient"]


class NodeError(Exception):
    """Base of every failure that this package raises on purpose."""


class Transient(NodeError):
    """It may work later without anybody's help; the outbox or the job queue tries again."""


class Permanent(NodeError):
    """It will not work however often it is tried; the series or report is parked with this text."""


class NotFound(Permanent):
    """Somebody named a file, series or target that is not there."""


class Misconfigured(NodeError):
    """The operator must change a setting or install a file; the process says so and exits with 3."""
