"""``demo``: a node with generated studies, to look at; what it does is in `demo_run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("demo")(demo)


def demo(
    folder: Annotated[Path, typer.Option(help="Where everything of the demo lies.")] = Path("demo"),
    once: Annotated[bool, typer.Option("--once", help="Stop when all reports are delivered.")] = False,
    patience_s: Annotated[
        float, typer.Option("--patience", min=1, help="Longest wait for the reports, seconds.")
    ] = 600,
) -> None:
    """Start a node and an archive, push generated studies through C-STORE, and show what comes out.

    One CT at three qualities (routine dose, a tenth of it, sparse views) and a PET/CT. Exit code 1 unless every
    report arrives at the archive and the three CT scores come out in the order of their qualities.
    """
    from dicom_qa_node.cli.demo_run import run_demo

    raise typer.Exit(run_demo(folder, patience_s, once=once))
