"""Makes text of headers and peers safe to show: terminals, log lines, mail subjects, pages and spreadsheets.

Control characters of ISO/IEC 6429 (C0, DEL, C1) can move a terminal's cursor, set its title or forge a line; the
directional formatting characters of Unicode (UAX 9) can make text read in another order than it is stored. Both are
replaced by a visible escape such as ``\\x1b`` or ``\\u202e``.
"""

from __future__ import annotations

import datetime as dt
import re

__all__ = ["csv_cell", "escaped_json", "visible", "visible_lines"]

_DIRECTIONS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_LINE_ENDS = "\u2028\u2029"
_CONTROLS = re.compile(f"[\x00-\x1f\x7f-\x9f{_LINE_ENDS}{_DIRECTIONS}]")
_CONTROLS_IN_LINES = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_LINE_ENDS}{_DIRECTIONS}]")
# The full-width forms run as well, in spreadsheets with an East Asian locale.
_RUNS_AS_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def visible(text: str) -> str:
    """Return one line of text with every control and directional character escaped, line ends and tabs too."""
    return _CONTROLS.sub(_escape, text)


def visible_lines(text: str) -> str:
    """Return text as `visible` does, but with its line feeds and tabs."""
    return _CONTROLS_IN_LINES.sub(_escape, text)


def escaped_json(document: str) -> str:
    """Return a JSON document whose strings hold no raw control or directional character (RFC 8259, section 7).

    ``json.dumps(ensure_ascii=False)`` escapes C0 only.
    """
    return _CONTROLS_IN_LINES.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def csv_cell(value: object) -> str:
    """Return a value for a spreadsheet: controls escaped, and a quote before text that would run as a formula."""
    if value is None:
        return ""
    text = visible(value.isoformat() if isinstance(value, dt.datetime) else str(value))
    formula = str(value).lstrip(" \u00a0")[:1] in _RUNS_AS_FORMULA and not _NUMBER.fullmatch(text)
    return f"'{text}" if formula else text


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return {9: "\\t", 10: "\\n", 13: "\\r"}.get(code) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
