"""Tables that fit the terminal: with short UIDs where it is narrow, as stacked rows where it is narrower."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dicom_qa_node.cli.output import coloured, console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

__all__ = ["print_pairs", "print_table", "short_uids"]

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_GAP, _INDENT = 2, 2
#: Of a cell, in addition to its text: a blank on each side and a line, and the last line of the table; without a frame
#: two blanks between cells.
_FRAME, _EDGE = 3, 1


def print_table(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """Print rows as a table; no word is broken: a table that does not fit gets short UIDs, then stacked rows.

    Parameters
    ----------
    rows
        At least one; all with the same keys.
    columns
        The keys to show, in order; all of the first row without it.
    """
    if not rows:
        return
    output, keys = console(), list(columns or rows[0])
    cells = {key: [coloured(row[key]) for row in rows] for key in keys}
    short = short_uids(cells)
    for shown, framed in ((cells, True), (short, True), (short, False)):
        table = _fitted(title, shown, output, framed=framed)
        if table is not None:
            output.print(table)
            return
    output.print(title, style="italic")
    for row in zip(*short.values(), strict=True):
        _print_pairs({key: text for key, text in zip(keys, row, strict=True) if text}, output)
        output.print()


def print_pairs(title: str, values: Mapping[str, Any]) -> None:
    """Print names with their values, each value wrapped beside its name, or below it where a word needs the room."""
    output = console()
    output.print(title, style="italic")
    _print_pairs({key: coloured(value) for key, value in values.items()}, output)


def _print_pairs(values: Mapping[str, str], output: Console) -> None:
    """Print names with values in rich markup."""
    from rich.text import Text

    left = max((len(key) for key in values), default=0) + _GAP
    for key, value in values.items():
        name, text = (key.replace("_", " ").ljust(left), "bold"), Text.from_markup(value)
        beside = _longest_word(text) <= output.width - left or not output.is_terminal
        indent = left if beside else _INDENT
        lines = [text] if not output.is_terminal else list(text.wrap(output, max(output.width - indent, 1))) or [text]
        output.print(Text.assemble(name, lines.pop(0)) if beside else Text.assemble(name))
        for line in lines:
            output.print(Text.assemble(" " * indent, line))


def short_uids(cells: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Shorten the UIDs of each column whose name ends with ``uid`` to an end that no other UID of the column has."""
    return {key: _shortened(column) if key.endswith("uid") else list(column) for key, column in cells.items()}


def _shortened(column: Sequence[str]) -> list[str]:
    from dicom_qa_node.flow.series_uids import SHORTEST

    uids = {text for text in column if _UID.fullmatch(text)}
    length = SHORTEST
    while len({uid[-length:] for uid in uids}) < len(uids):
        length += 1
    return [f"…{text[-length:]}" if text in uids and len(text) > length + 1 else text for text in column]


def _fitted(title: str, cells: Mapping[str, Sequence[str]], output: Console, *, framed: bool) -> Table | None:
    """Return the table in a width that the console has, None if a word would be broken."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    texts = {key: [Text(key.replace("_", " ")), *map(Text.from_markup, column)] for key, column in cells.items()}
    least = [max(map(_longest_word, column)) for column in texts.values()]
    widths = [max(text.cell_len for text in column) for column in texts.values()]
    extra = _FRAME * len(texts) + _EDGE if framed else _GAP * (len(texts) - 1)
    if output.is_terminal:
        room = output.width - extra
        if sum(least) > room:
            return None
        while sum(widths) > room:
            # The column that has most to give; one with a longest word already as wide as itself has nothing.
            widest = max(range(len(widths)), key=lambda number: widths[number] - least[number])
            widths[widest] -= 1
    else:
        output.width = max(sum(widths) + extra, len(title))
    if framed:
        table = Table(title=title, title_justify="left")
    else:
        table = Table(
            title=title,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_edge=False,
        )
    for (key, _), width in zip(texts.items(), widths, strict=True):
        table.add_column(key.replace("_", " "), overflow="fold", width=width)
    for row in zip(*cells.values(), strict=True):
        table.add_row(*row)
    return table


def _longest_word(text: Text) -> int:
    from rich.cells import cell_len

    return max((cell_len(word) for word in text.plain.split()), default=0)
