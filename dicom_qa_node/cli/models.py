"""``models list|verify``: which networks there are, and whether their weights are the ones of the card."""

from __future__ import annotations

import typer

__all__ = ["app"]

app = typer.Typer(help="Networks and their weights.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """List."""


@app.command()
def verify() -> None:
    """Verify."""
