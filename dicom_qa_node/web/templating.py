"""The template engine: every value is escaped, an unknown name is an error, times read the same everywhere."""

from __future__ import annotations

import datetime as dt
import hashlib
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dicom_qa_node.config import Grades
from dicom_qa_node.safe_text import visible_lines

__all__ = ["STATIC", "environment", "static_version", "when"]

STATIC = Path(__file__).parent / "static"


def environment(grades: Grades | None = None) -> Environment:
    """Return the engine with the filters ``when`` and ``day``, and the limits of the grades as ``grade_limits``."""
    made = Environment(
        loader=PackageLoader("dicom_qa_node.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    limits = grades or Grades()
    made.globals["grade_limits"] = (limits.limited, limits.diagnostic)
    made.filters["when"] = when
    made.filters["day"] = lambda moment: when(moment, "%Y-%m-%d")
    return made


def _shown(value: object) -> object:
    return visible_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def when(moment: dt.datetime | None, form: str = "%Y-%m-%d %H:%M") -> Markup:
    """Return a time in the node's time zone as a ``<time>`` element, an en dash for none."""
    if moment is None:
        return Markup("–")
    local, exact = moment.astimezone(), moment.astimezone(dt.UTC).isoformat(timespec="seconds")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(exact, exact, local.strftime(form))


@lru_cache(maxsize=256)
def static_version(name: str) -> str:
    """Return a word that changes with the content of a static file, for its address."""
    path = STATIC / name
    return hashlib.sha256(path.read_bytes()).hexdigest()[:10] if path.is_file() else "0"
