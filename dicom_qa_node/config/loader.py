"""The strict YAML loader: a wrong file reports every problem at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from dicom_qa_node.config.delivery import KINDS
from dicom_qa_node.config.root import Config
from dicom_qa_node.config.wording import allowed, sections_of
from dicom_qa_node.errors import Misconfigured

__all__ = ["ConfigProblem", "InvalidConfig", "load_config", "parse_config"]


class ConfigProblem(BaseModel):
    """One thing that is wrong: where, what was found, what is allowed."""

    path: str
    value: str
    message: str

    def __str__(self) -> str:
        """Return the line that the operator reads."""
        found = f" (found {self.value})" if self.value else ""
        return f"{self.path}: {self.message}{found}"


class InvalidConfig(Misconfigured):
    """The configuration has problems; ``problems`` lists all of them."""

    def __init__(self, source: str, problems: list[ConfigProblem]) -> None:
        self.source = source
        self.problems = problems
        lines = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"{source} has {len(problems)} problem(s):\n{lines}")


class _StrictLoader(yaml.SafeLoader):
    """YAML loader that refuses a key given twice."""


def _mapping_without_duplicates(loader: _StrictLoader, node: yaml.MappingNode) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in mapping:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def load_config(path: Path | None) -> Config:
    """Read a configuration file; None gives the defaults.

    Relative paths in the file are taken from the folder the process runs in.

    Raises
    ------
    Misconfigured
        The file cannot be read.
    InvalidConfig
        It is not valid; the error names every problem with its path, value and allowed range.
    """
    if path is None:
        return Config()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"cannot read the configuration {path}: {error}") from error
    return parse_config(text, source=str(path))


def parse_config(text: str, source: str = "configuration") -> Config:
    """Build a `Config` from YAML text; see `load_config`."""
    try:
        data = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise InvalidConfig(
            source, [ConfigProblem(path="(file)", value="", message=f"not valid YAML: {error}")]
        ) from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        problem = ConfigProblem(path="(file)", value=type(data).__name__, message="must be a mapping of keys to values")
        raise InvalidConfig(source, [problem])
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise InvalidConfig(source, list(_problems(error))) from error


def _problems(error: ValidationError) -> Iterator[ConfigProblem]:
    for item in error.errors():
        location = [str(part) for part in item["loc"]]
        path = _dotted([part for part in location if part not in KINDS])
        hide = item["type"] in ("missing", "extra_forbidden", "union_tag_not_found")
        # What concerns several sections has no value of its own, but the whole file.
        value = "" if hide or not path else _shown(path, item["input"])
        yield ConfigProblem(path=path or "(file)", value=value, message=_message(item, location))


def _dotted(parts: list[str]) -> str:
    return re.sub(r"\.(\d+)", r"[\1]", ".".join(parts))


def _shown(path: str, value: Any) -> str:
    if re.search(r"password|secret|token|webhook\[\d+\]\.url", path):
        return "(hidden)"
    text = re.sub(r"(?<=:)[^:@/']+(?=@)", "***", repr(value))
    return text if len(text) <= 80 else text[:77] + "..."


def _message(item: Mapping[str, Any], location: list[str]) -> str:
    kind = item["type"]
    if kind == "value_error":
        return str(item["msg"]).removeprefix("Value error, ")
    if kind == "extra_forbidden":
        known = sorted(_fields_at(location[:-1]))
        near = difflib.get_close_matches(location[-1], known, n=1)
        return f"unknown key; did you mean {near[0]!r}?" if near else f"unknown key; known here: {', '.join(known)}"
    if kind.startswith("union_tag"):
        return f"expected kind {' or '.join(KINDS)}"
    field = _fields_at(location[:-1]).get(location[-1]) if location else None
    if field is None and len(location) > 1:
        field = _fields_at(location[:-2]).get(location[-2])
    rule = f"expected {allowed(field)}" if field is not None else str(item["msg"])
    return f"is missing; {rule}" if kind == "missing" else rule


def _fields_at(location: list[str]) -> Mapping[str, FieldInfo]:
    """Return the keys of the section at a place; an index and the kind of a target are steps of a place too."""
    models: list[type[BaseModel]] = [Config]
    for part in location:
        if part in KINDS:
            models = [KINDS[part]]
        elif not part.isdigit():
            field = models[0].model_fields.get(part) if models else None
            models = sections_of(field.annotation) if field else []
    return models[0].model_fields if models else {}
