"""Writes the commented ``config.yaml`` and the table of the documentation from the schema."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dicom_qa_node.config import Config
from dicom_qa_node.config.loader import allowed, sections_of
from dicom_qa_node.config.tiers import BASIC_KEYS

__all__ = ["as_markdown", "as_yaml", "shown_value"]

_HEAD = """\
# Configuration of dicom-qa-node: every key with its default.
# In each section the keys that a site sets first come first; the others follow below "advanced".
# Check a changed file with `dicom-qa-node config check`; an unknown key or an impossible value is an error.
# Relative paths start at the folder the process runs in.

"""
_TITLE = """\
# Configuration

Every key of `config.yaml`. The node reads the file that `--config` or the environment variable
`DICOM_QA_NODE_CONFIG` names, else `./config.yaml`, else it takes the defaults. An unknown key, a wrong type or an
impossible value is an error: `dicom-qa-node config check` names every problem at once and exits with 3;
`dicom-qa-node config show` prints what applies. Changes apply after a restart.

"""
_COLUMNS = ("| key | default | allowed | what it does |", "|---|---|---|---|")
_BASIC_HEAD = (
    "## The keys that a site sets first\n",
    "The rest of this page is the advanced tier: every key by section, with defaults that suit most sites.\n",
    *_COLUMNS,
)
_WIDTH = 110


def as_yaml() -> str:
    """Return a configuration file that holds every key with its help, what it allows and its default."""
    return _HEAD + "".join(_section_lines(Config, 0, ""))


def as_markdown() -> str:
    """Return a table per section: key, default, what it allows, what it does."""
    basic = [*_BASIC_HEAD, *(row for row in _rows(Config, "") if row.split("`")[1] in BASIC_KEYS), ""]
    return _TITLE + "\n".join([*basic, *_tables(Config, "")]).rstrip() + "\n"


def shown_value(value: Any) -> str:
    """Return a value as it stands in a YAML file, on one line."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Path):
        value = str(value)
    if value is None:
        return "null"
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("...\n").strip()


def _section_lines(section: type[BaseModel], depth: int, prefix: str) -> Iterator[str]:
    indent = "  " * depth
    basic = [key for key in section.model_fields if _is_basic(f"{prefix}{key}")]
    advanced = [key for key in section.model_fields if key not in basic]
    for index, key in enumerate((*basic, *advanced)):
        field = section.model_fields[key]
        default = _default(field)
        if basic and index == len(basic) and depth:
            yield f"\n{indent}# advanced\n"
        if isinstance(default, BaseModel):
            yield f"\n{indent}# {_sentence(field)}\n{indent}{key}:\n"
            yield from _section_lines(type(default), depth + 1, f"{prefix}{key}.")
            continue
        yield from _comment(f"{_sentence(field)} [{allowed(field)}]", indent)
        yield f"{indent}{key}: {shown_value(default)}\n"
        for item in sections_of(field.annotation):
            yield from _example_lines(item, indent)


def _is_basic(name: str) -> bool:
    """Return whether a key, or one inside of it, is of the basic tier."""
    return name in BASIC_KEYS or any(key.startswith(f"{name}.") for key in BASIC_KEYS)


def _example_lines(section: type[BaseModel], indent: str) -> Iterator[str]:
    yield f"{indent}# one entry{_of_kind(section)}, to stand in place of []:\n"
    lead = "- "
    for key, field in section.model_fields.items():
        value = f"{key}: {shown_value(_example(key, field))}"
        yield f"{indent}#   {lead}{value:34}  # {_sentence(field)} [{allowed(field)}]\n"
        lead = "  "


def _of_kind(section: type[BaseModel]) -> str:
    kind = section.model_fields.get("kind")
    return f" of kind {kind.default}" if kind else ""


def _example(key: str, field: FieldInfo) -> Any:
    examples = {
        "ae_title": "PACS1",
        "name": "pacs",
        "host": "pacs.example",
        "path": "/srv/reports",
        "url": "https://pacs.example/dicom-web",
        "sender": "quality@hospital.example",
        "recipients": ["physics@hospital.example"],
    }
    default = _default(field)
    return examples[key] if default is PydanticUndefined else default


def _tables(section: type[BaseModel], prefix: str) -> Iterator[str]:
    title = f"`{prefix.rstrip('.')}`{_of_kind(section)}" if prefix else "Top level"
    yield f"## {title}\n"
    yield from _COLUMNS
    nested: list[tuple[type[BaseModel], str]] = []
    for key, field in section.model_fields.items():
        default = _default(field)
        if isinstance(default, BaseModel):
            nested.append((type(default), f"{prefix}{key}."))
            continue
        yield _row(f"{prefix}{key}", field)
        nested += [(item, f"{prefix}{key}[].") for item in sections_of(field.annotation)]
    yield ""
    for inner, place in nested:
        yield from _tables(inner, place)


def _rows(section: type[BaseModel], prefix: str) -> Iterator[str]:
    """Yield the row of every key, those of a list's entry behind the list; of alternatives the first alone."""
    for key, field in section.model_fields.items():
        default = _default(field)
        if isinstance(default, BaseModel):
            yield from _rows(type(default), f"{prefix}{key}.")
            continue
        yield _row(f"{prefix}{key}", field)
        for item in sections_of(field.annotation)[:1]:
            yield from _rows(item, f"{prefix}{key}[].")


def _row(name: str, field: FieldInfo) -> str:
    default = _default(field)
    shown = "required" if default is PydanticUndefined else f"`{shown_value(default)}`"
    return f"| {' | '.join([f'`{name}`', shown, _cell(allowed(field)), _cell(_sentence(field))])} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _sentence(field: FieldInfo) -> str:
    return field.description or ""


def _comment(text: str, indent: str) -> Iterator[str]:
    for line in textwrap.wrap(text, _WIDTH - len(indent)):
        yield f"{indent}# {line}\n"


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})
