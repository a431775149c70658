"""The commands: the only package that may import every stage and puts them together.

`main` turns every failure that the package raises on purpose into one line on standard error and an exit code.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process and exit with its code."""
    from dicom_qa_node.cli.app import run

    raise SystemExit(run())
