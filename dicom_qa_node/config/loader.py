"""The whole configuration, its strict YAML loader, and the description of what each key may hold."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as at
import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from dicom_qa_node.config.alerts import Alerts, Charts
from dicom_qa_node.config.backfill import Backfill
from dicom_qa_node.config.delivery import KINDS, Deliver, DicomTarget, Report
from dicom_qa_node.config.dicom_services import Complete, Query, Receive, Spool
from dicom_qa_node.config.fields import AeTitle, Section
from dicom_qa_node.config.monthly_report import MonthlyReport
from dicom_qa_node.config.orthanc import Orthanc
from dicom_qa_node.config.phantoms import Phantoms
from dicom_qa_node.config.scoring import Score
from dicom_qa_node.config.thresholds import FindingRules
from dicom_qa_node.config.web import Web
from dicom_qa_node.domain.errors import Misconfigured

__all__ = ["Config", "ConfigProblem", "InvalidConfig", "Log", "allowed", "load_config", "parse_config", "sections_of"]

_WORDS = {int: "whole number", float: "number", str: "text", Path: "path"}


def allowed(field: FieldInfo) -> str:
    """Return what a key may hold, such as ``whole number, 1 to 65535``.

    A key whose values follow a pattern says so itself in ``json_schema_extra["allowed"]``.
    """
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "allowed" in extra:
        return str(extra["allowed"])
    return _of_type(field.annotation) + _bounds(field.metadata)


def sections_of(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections that an annotation holds: one for a section, several for a list of alternatives."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in sections_of(argument)]


def _of_type(annotation: Any) -> str:
    if annotation is bool:
        return "true or false"
    if get_origin(annotation) is Annotated:
        return _of_annotated(*get_args(annotation))
    if get_origin(annotation) is Literal:
        choices = [str(choice) for choice in get_args(annotation)]
        return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"
    if get_origin(annotation) in (Union, types.UnionType):
        words = [_of_type(part) for part in get_args(annotation) if part is not type(None)]
        return " or ".join([*words, "empty"])
    if get_origin(annotation) is list:
        return "list of sections" if sections_of(annotation) else f"list of {_of_type(get_args(annotation)[0])}"
    if sections_of(annotation):
        return "section"
    return _WORDS.get(annotation, str(annotation))


def _of_annotated(annotation: Any, *notes: Any) -> str:
    return next((allowed(note) for note in notes if isinstance(note, FieldInfo)), _of_type(annotation))


def _bounds(metadata: list[Any]) -> str:
    low = next((f"{m.ge:g}" for m in metadata if isinstance(m, at.Ge)), "")
    low = next((f"above {m.gt:g}" for m in metadata if isinstance(m, at.Gt)), low)
    high = next((f"{m.le:g}" for m in metadata if isinstance(m, at.Le)), "")
    if low and high:
        return f", {low} to {_whole(metadata, high)}"
    if low:
        return f", {low}" if low.startswith("above") else f", {low} or more"
    return _length(metadata)


def _whole(metadata: list[Any], text: str) -> str:
    # "{:g}" shortens large whole numbers to an exponent.
    exact = next(m.le for m in metadata if isinstance(m, at.Le))
    return str(exact) if "e" in text else text


def _length(metadata: list[Any]) -> str:
    low = next((m.min_length for m in metadata if isinstance(m, at.MinLen)), 0)
    high = next((m.max_length for m in metadata if isinstance(m, at.MaxLen)), None)
    if high is not None:
        return f", {low} to {high} characters"
    return ", not empty" if low else ""


class Log(Section):
    """Log output on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level written")
    format: Literal["text", "json"] = Field("text", description="one text line or one JSON object per event")


class Config(Section):
    """Everything an operator can set."""

    ae_title: AeTitle = Field("DICOMQA", description="AE title of this node")
    database_url: str = Field(
        "sqlite:///var/dicom-qa-node/quality.db",
        pattern=r"^(sqlite|postgresql(\+\w+)?)://",
        json_schema_extra={"allowed": "address starting with sqlite:// or postgresql://"},
        description="SQLAlchemy address of the database",
    )
    spool_dir: Path = Field(
        Path("var/dicom-qa-node/spool"), strict=False, description="folder of images, reports and pictures"
    )
    receive: Receive = Field(default_factory=Receive, description="the C-STORE SCP")
    spool: Spool = Field(default_factory=Spool, description="disk watermarks and retention")
    complete: Complete = Field(default_factory=Complete, description="when a series counts as complete")
    score: Score = Field(default_factory=Score, description="the scoring workers")
    findings: FindingRules = Field(default_factory=FindingRules, description="when a measurement becomes a finding")
    phantoms: Phantoms = Field(default_factory=Phantoms, description="QC phantoms")
    report: Report = Field(default_factory=Report, description="contents of the Structured Report")
    deliver: Deliver = Field(default_factory=Deliver, description="targets and retries")
    orthanc: Orthanc = Field(default_factory=Orthanc, description="the bridge to an Orthanc server")
    backfill: Backfill = Field(default_factory=Backfill, description="past series from an archive")
    query: Query = Field(default_factory=Query, description="the query/retrieve SCP")
    web: Web = Field(default_factory=Web, description="health, metrics, quality log")
    charts: Charts = Field(default_factory=Charts, description="control charts and drift")
    monthly_report: MonthlyReport = Field(default_factory=MonthlyReport, description="the report of each month")
    alerts: Alerts = Field(default_factory=Alerts, description="alerts by e-mail and webhook")
    log: Log = Field(default_factory=Log, description="log output")

    @model_validator(mode="after")
    def _target_of_orthanc_exists(self) -> Config:
        names = [target.name for target in self.deliver.targets]
        if self.orthanc.target and self.orthanc.target not in names:
            known = ", ".join(names) or "none"
            raise ValueError(f"orthanc.target: {self.orthanc.target!r} is not in deliver.targets, which has: {known}")
        return self

    @model_validator(mode="after")
    def _reports_have_channels(self) -> Config:
        known = {channel.name for channel in self.alerts.email}
        for name in self.monthly_report.channels:
            if name not in known:
                raise ValueError(f"monthly_report.channels: alerts.email has no channel {name!r}")
        return self

    @model_validator(mode="after")
    def _committing_targets_may_call(self) -> Config:
        known = {peer.ae_title.strip() for peer in self.receive.peers}
        for target in self.deliver.targets:
            if not isinstance(target, DicomTarget) or not target.require_commitment:
                continue
            if not self.receive.allow_unknown_peers and target.ae_title.strip() not in known:
                raise ValueError(
                    f"target {target.name} is to commit to reports, but {target.ae_title} may not call the "
                    "node with the result: list it in receive.peers"
                )
        return self


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


def _plain_integer(loader: _StrictLoader, node: yaml.ScalarNode) -> int:
    """Refuse numbers that YAML 1.1 reads otherwise than people do: 0104 is 68 to it, and 22:00 is 1320."""
    text = str(node.value)
    if re.match(r"[-+]?0[0-9_]", text):
        words = f"{text} has a leading zero, which YAML takes for an octal number; write it without"
        raise yaml.constructor.ConstructorError(None, None, words, node.start_mark)
    if ":" in text:
        words = f"{text} is a number to the base of 60 in YAML; put it in quotes"
        raise yaml.constructor.ConstructorError(None, None, words, node.start_mark)
    return int(loader.construct_yaml_int(node))


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _plain_integer)
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
