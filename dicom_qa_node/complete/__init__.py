"""Decides when a series is complete: RECEIVING -> COMPLETE.

`rules` holds the decision as pure functions of what was counted and the time; `sweep` applies it to the registry, with
waits that `ages` keeps right when the clock of the host is set.
"""

from __future__ import annotations

from dicom_qa_node.complete.ages import Ages
from dicom_qa_node.complete.rules import Decision, Ready, Wait, decide
from dicom_qa_node.complete.sweep import sweep

__all__ = ["Ages", "Decision", "Ready", "Wait", "decide", "sweep"]
