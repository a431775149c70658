"""Runs ``serve`` with short pauses before a role is started again, as `python -m dicom_qa_node` does otherwise.

A role that is killed every few seconds would soon be left out for a minute each time, and a test would mostly wait.
"""

from __future__ import annotations

from dicom_qa_node.cli import main
from dicom_qa_node.ops import supervisor

LONGEST_PAUSE_S = 1.0

if __name__ == "__main__":
    supervisor._BACKOFF_MAX_S = LONGEST_PAUSE_S
    main()
