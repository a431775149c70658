"""The configuration: one schema with defaults and help, one strict YAML loader, built once and passed down.

Every key of ``config.yaml`` is a field here; the commented file and the table in the documentation are generated
from it (``dicom-qa-node config schema``). A wrong file reports every problem at once.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from dicom_qa_node.config_limits import allowed, sections_of
from dicom_qa_node.errors import Misconfigured
from dicom_qa_node.limits import FindingRules

__all__ = ["Config", "ConfigProblem", "InvalidConfig", "Target", "load_config", "parse_config"]

AeTitle = Annotated[
    str,
    Field(
        pattern=r"^ *[!-\[\]-~][ -\[\]-~]*$",
        max_length=16,
        json_schema_extra={"allowed": "1 to 16 printable ASCII characters, no backslash"},
    ),
]
Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        json_schema_extra={"allowed": "1 to 64 letters, digits, dots, dashes or underscores"},
    ),
]
Port = Annotated[int, Field(ge=1, le=65535)]
ListenPort = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """A part of the configuration; unknown keys and silent type changes are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Peer(Section):
    """A scanner or workstation that may open associations to the node."""

    ae_title: AeTitle = Field(description="calling AE title of the peer")
    hosts: list[str] = Field(
        default_factory=list, description="IP addresses or CIDR networks it may call from; empty: any"
    )
    max_associations: int = Field(16, ge=1, le=1000, description="associations this peer may hold at once")
    port: ListenPort = Field(
        0, description="TCP port it listens on, for storage commitment results; 0: only on its own association"
    )

    @field_validator("hosts")
    @classmethod
    def _networks(cls, hosts: list[str]) -> list[str]:
        for host in hosts:
            try:
                ipaddress.ip_network(host, strict=False)
            except ValueError as error:
                raise ValueError("must be IP addresses or CIDR networks, such as 10.1.2.3 or 10.1.0.0/16") from error
        return hosts


class Receive(Section):
    """The C-STORE SCP: where scanners push to."""

    host: str = Field("0.0.0.0", description="address to listen on")
    port: ListenPort = Field(11112, description="TCP port to listen on; 0 picks a free one")
    processes: int = Field(2, ge=1, le=32, description="receiver processes that share the listening socket")
    max_associations: int = Field(64, ge=1, le=1000, description="associations at once, over all processes")
    max_pdu_bytes: int = Field(1048576, ge=4096, le=16777216, description="largest P-DATA-TF PDU the node accepts")
    acse_timeout_s: float = Field(30, gt=0, le=600, description="longest wait for association messages")
    dimse_timeout_s: float = Field(60, gt=0, le=3600, description="longest wait for the rest of a DIMSE message")
    network_timeout_s: float = Field(120, gt=0, le=86400, description="longest silence on an open association")
    require_called_ae: bool = Field(False, description="refuse associations that call another AE title than ours")
    allow_unknown_peers: bool = Field(
        True, description="accept any calling AE and host; false: only those listed in peers"
    )
    peers: list[Peer] = Field(default_factory=list, description="the peers that may connect when unknown ones may not")
    storage_commitment: bool = Field(
        False,
        description="answer storage commitment requests; only for peers that do not delete images on our word, "
        "since images are kept no longer than section spool says",
    )


class Spool(Section):
    """Disk space and retention of the spool."""

    min_free_mb: int = Field(
        2048, ge=0, description="below this free space C-STORE answers A700 and associations are refused"
    )
    resume_free_mb: int = Field(3072, ge=0, description="receiving resumes above this free space")
    keep_delivered_days: float = Field(7, ge=0, description="days the images of a delivered series stay in the spool")
    keep_parked_days: float = Field(90, ge=0, description="days the images of a parked series stay in the spool")

    @model_validator(mode="after")
    def _resume_above_minimum(self) -> Spool:
        if self.resume_free_mb < self.min_free_mb:
            raise ValueError("resume_free_mb must not be below min_free_mb")
        return self


class Complete(Section):
    """When a series counts as complete."""

    quiet_s: float = Field(
        60, ge=0, le=86400, description="silence after which a series without a known count is complete"
    )
    pair_wait_s: float = Field(900, ge=0, le=86400, description="how long a PET series waits for its CT")
    force_age_s: float = Field(3600, gt=0, le=604800, description="age at which a series is scored whatever is missing")
    sweep_s: float = Field(0.5, ge=0.05, le=60, description="time between two looks at the series in RECEIVING")


class Grades(Section):
    """Score thresholds of the grades (score 0-4, higher is better)."""

    diagnostic: float = Field(2.5, ge=0, le=4, description="lowest score graded diagnostic (RID12)")
    limited: float = Field(
        1.5, ge=0, le=4, description="lowest score graded limited (RID13); below: non-diagnostic (RID14)"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Grades:
        if self.limited > self.diagnostic:
            raise ValueError("limited must not be above diagnostic")
        return self


class Score(Section):
    """The scoring workers."""

    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        json_schema_extra={"allowed": "auto, cpu, cuda or cuda:N"},
        description="where the network runs; auto: the first GPU, else the CPU",
    )
    workers: int = Field(1, ge=1, le=64, description="scoring processes (on the CPU one is usually best)")
    threads: int = Field(0, ge=0, le=256, description="CPU threads per worker; 0: one per core")
    model: str = Field("ms_iqa_small", min_length=1, description="name of an installed model (models list)")
    models_dir: Path | None = Field(
        None, strict=False, description="folder of site-trained weights; empty: those shipped"
    )
    slices: int = Field(7, ge=1, le=64, description="salient slices per series")
    slice_rule: Literal["salient", "positional"] = Field(
        "salient", description="salient: by content; positional: MedIQA's rule"
    )
    grades: Grades = Field(default_factory=Grades, description="thresholds of the grades")
    lease_s: float = Field(60, ge=5, le=3600, description="a worker that is silent for this long loses its job")
    max_attempts: int = Field(3, ge=1, le=20, description="tries before a series is parked")
    recycle_after: int = Field(500, ge=1, description="series after which a worker process is replaced")
    max_memory_mb: int = Field(
        2500, ge=512, description="resident memory at which a worker is replaced after its series"
    )


class Report(Section):
    """Contents of the Structured Report."""

    manufacturer: str = Field(
        "dicom-qa-node", min_length=1, max_length=64, description="Manufacturer (0008,0070) of the report"
    )
    institution_name: str = Field(
        "", max_length=64, description="Institution Name of the report; empty: that of the images"
    )
    series_number: int = Field(9900, ge=1, le=2147483647, description="Series Number (0020,0011) of report series")


class DicomTarget(Section):
    """A PACS or archive that receives reports by C-STORE."""

    kind: Literal["dicom"] = Field("dicom", description="C-STORE to a DICOM application entity")
    name: Name = Field(description="name used in commands and tables")
    host: str = Field(min_length=1, description="host name or address")
    port: Port = Field(104, description="TCP port")
    ae_title: AeTitle = Field(description="AE title of the target")
    timeout_s: float = Field(30, gt=0, le=600, description="longest wait for an answer")
    require_commitment: bool = Field(
        False, description="a report counts as delivered only when the target has committed to its storage"
    )
    commitment_wait_s: float = Field(
        3600, gt=0, le=604800, description="wait for the commitment before the report is sent and asked for again"
    )


class FolderTarget(Section):
    """A folder that receives reports as Part 10 files."""

    kind: Literal["folder"] = Field("folder", description="Part 10 files in a folder")
    name: Name = Field(description="name used in commands and tables")
    path: Path = Field(strict=False, description="folder to write to (created if absent)")


_KINDS: dict[str, type[Section]] = {"dicom": DicomTarget, "folder": FolderTarget}
Target = Annotated[DicomTarget | FolderTarget, Field(discriminator="kind")]


class Deliver(Section):
    """Where reports go and how failures are retried."""

    targets: list[Target] = Field(default_factory=list, description="the receivers of reports")
    retry_first_s: float = Field(5, gt=0, le=3600, description="wait after the first failed attempt; doubles each time")
    retry_max_s: float = Field(900, gt=0, le=86400, description="longest wait between two attempts")
    give_up_after_s: float = Field(604800, gt=0, description="age at which an undelivered report is parked")
    lease_s: float = Field(120, ge=5, le=3600, description="a courier that is silent for this long loses its delivery")

    @model_validator(mode="after")
    def _unique_names(self) -> Deliver:
        names = [target.name for target in self.targets]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"target names must be unique; used twice: {', '.join(twice)}")
        return self


class Destination(Section):
    """An application entity that objects can be moved to."""

    ae_title: AeTitle = Field(description="AE title, as a C-MOVE request names it")
    host: str = Field(min_length=1, description="host name or address")
    port: Port = Field(104, description="TCP port")


class Query(Section):
    """The query/retrieve SCP: reports, and images if wished, for those who ask."""

    enabled: bool = Field(True, description="answer C-FIND, C-MOVE and C-GET")
    images: bool = Field(False, description="serve the images that are still in the spool, too")
    destinations: list[Destination] = Field(default_factory=list, description="where C-MOVE may send objects")
    timeout_s: float = Field(30, gt=0, le=600, description="longest wait for an answer of a destination")

    @model_validator(mode="after")
    def _unique_titles(self) -> Query:
        titles = [destination.ae_title.strip() for destination in self.destinations]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise ValueError(f"AE titles of destinations must be unique; used twice: {', '.join(twice)}")
        return self


class Web(Section):
    """The web role: health, metrics and the quality log."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: ListenPort = Field(8080, description="TCP port to listen on; 0 picks a free one")


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
    report: Report = Field(default_factory=Report, description="contents of the Structured Report")
    deliver: Deliver = Field(default_factory=Deliver, description="targets and retries")
    query: Query = Field(default_factory=Query, description="the query/retrieve SCP")
    web: Web = Field(default_factory=Web, description="health, metrics, quality log")
    log: Log = Field(default_factory=Log, description="log output")


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
        path = _dotted([part for part in location if part not in _KINDS])
        hide = item["type"] in ("missing", "extra_forbidden", "union_tag_not_found")
        value = "" if hide else _shown(path, item["input"])
        yield ConfigProblem(path=path or "(file)", value=value, message=_message(item, location))


def _dotted(parts: list[str]) -> str:
    return re.sub(r"\.(\d+)", r"[\1]", ".".join(parts))


def _shown(path: str, value: Any) -> str:
    if re.search(r"password|secret|token", path):
        return "(hidden)"
    text = re.sub(r"(?<=:)[^:@/']+(?=@)", "***", repr(value)) if path == "database_url" else repr(value)
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
        return f"expected kind {' or '.join(_KINDS)}"
    field = _fields_at(location[:-1]).get(location[-1]) if location else None
    if field is None and len(location) > 1:
        field = _fields_at(location[:-2]).get(location[-2])
    rule = f"expected {allowed(field)}" if field is not None else str(item["msg"])
    return f"is missing; {rule}" if kind == "missing" else rule


def _fields_at(location: list[str]) -> Mapping[str, FieldInfo]:
    """Return the keys of the section at a place; an index and the kind of a target are steps of a place too."""
    models: list[type[BaseModel]] = [Config]
    for part in location:
        if part in _KINDS:
            models = [_KINDS[part]]
        elif not part.isdigit():
            field = models[0].model_fields.get(part) if models else None
            models = sections_of(field.annotation) if field else []
    return models[0].model_fields if models else {}
