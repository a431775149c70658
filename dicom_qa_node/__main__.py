"""``python -m dicom_qa_node`` is ``dicom-qa-node``; the supervisor starts each role this way."""

from __future__ import annotations

from dicom_qa_node.cli import main

if __name__ == "__main__":
    main()
