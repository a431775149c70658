"""Decides when a series is complete: RECEIVING -> COMPLETE.

`rules` holds the decision as pure functions of what was counted and the time; `sweep` applies it to the registry.
"""

from __future__ import annotations

from dicom_qa_node.complete.rules import Decision, Ready, Wait, decide
from dicom_qa_node.complete.sweep import sweep

__all__ = ["Decision", "Ready", "Wait", "decide", "sweep"]
