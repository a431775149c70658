"""What every command starts from: the configuration the operator chose, and the database it names.

Commands import what they use when they run: each starts with what it needs, and `--help` with next to nothing.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from dicom_qa_node.config import Config
    from dicom_qa_node.db.engine import Database

__all__ = ["DEFAULT_CONFIG", "Invocation", "actor", "config_of", "invocation", "open_database"]

DEFAULT_CONFIG = Path("config.yaml")


@dataclass(frozen=True)
class Invocation:
    """One run of the command line; ``config_path`` is None where the defaults apply."""

    config_path: Path | None

    @cached_property
    def config(self) -> Config:
        """Read the configuration on first use: ``config check`` and ``--help`` work with a wrong file too."""
        from dicom_qa_node.config import load_config

        return load_config(self.config_path)


def invocation(chosen: Path | None) -> Invocation:
    """Return the run for ``--config`` or its environment variable; else ``./config.yaml`` if it is there."""
    if chosen is None and DEFAULT_CONFIG.is_file():
        chosen = DEFAULT_CONFIG
    return Invocation(chosen)


def config_of(context: typer.Context) -> Config:
    """Return the configuration of this run."""
    run: Invocation = context.obj
    return run.config


@contextmanager
def open_database(config: Config) -> Iterator[Database]:
    """Open the database for a command; it must exist and have the schema of this version."""
    from dicom_qa_node.db.engine import Database

    database = Database(config.database_url)
    try:
        database.require_current()
        yield database
    finally:
        database.close()


def actor() -> str:
    """Return who acts, for the history of a series: the login name behind sudo, else that of this process."""
    try:
        return f"cli {os.environ.get('SUDO_USER') or getpass.getuser()}"
    except (KeyError, OSError):
        return f"cli uid {os.getuid()}"
