"""How commands show things: rich tables for people, JSON for programs, both from the same rows."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_qa_node.safe_text import escaped_json, visible, visible_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from dicom_qa_node.domain.results import SeriesResult

__all__ = [
    "AsJson",
    "coloured",
    "complain",
    "console",
    "grade_style",
    "json_text",
    "progress_bar",
    "say",
    "score_text",
    "show_json",
    "show_rows",
    "when",
]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

_STYLES = {
    "diagnostic": "green", "limited": "yellow", "non-diagnostic": "red",
    "DELIVERED": "green", "PARKED": "red",
    "ok": "green", "degraded": "yellow", "failed": "red", "warning": "yellow", "error": "red",
}  # fmt: skip


def console(*, error: bool = False) -> Console:
    """Return a console; where the output is not a terminal, tables are as wide as their content."""
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 200, highlight=False, soft_wrap=not stream.isatty())


def say(line: str) -> None:
    """Print one plain line."""
    typer.echo(visible_lines(line))


def complain(line: str) -> None:
    """Print one plain line on standard error."""
    typer.echo(visible_lines(line), err=True)


def json_text(value: Any) -> str:
    """Return indented JSON; times are ISO 8601 in UTC."""
    return escaped_json(json.dumps(value, default=_plain, indent=2, ensure_ascii=False))


def show_json(value: Any) -> None:
    """Print one JSON document."""
    typer.echo(json_text(value))


def show_rows(title: str, rows: Sequence[Mapping[str, Any]], *, as_json: bool, empty: str) -> None:
    """Print rows with the same keys as a table or as a JSON list; ``empty`` is said when there are none."""
    if as_json:
        show_json(list(rows))
        return
    if not rows:
        say(empty)
        return
    from dicom_qa_node.cli.terminal_tables import print_table

    print_table(title, rows)


def coloured(value: Any) -> str:
    """Return one cell as rich markup; words of state and grade have their colour."""
    from rich.markup import escape

    text = escape(_cell(value))
    style = _STYLES.get(text.split(" ")[0])
    return f"[{style}]{text}[/{style}]" if style else text


def grade_style(grade: str | None) -> str:
    """Return the colour of a grade."""
    return _STYLES.get(grade or "", "default")


def when(moment: dt.datetime | None) -> str:
    """Return a time in the local time zone to the second, "" for none."""
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def score_text(result: SeriesResult) -> str:
    """Return a score with its interval, such as ``3.12 [2.70, 3.54]``."""
    if result.score is None:
        return "no score"
    low, high = result.interval or (result.score, result.score)
    return f"{result.score:.2f} [{low:.2f}, {high:.2f}]"


def progress_bar() -> Progress:
    """Return a progress display on standard error, so that standard output stays clean for programs."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console(error=True), transient=False)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dt.datetime):
        return when(value)
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value))
    return visible(str(value))


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat()
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    raise TypeError(f"cannot show {type(value).__name__}")
