"""The sections of the control charts and of the alerts: what is noticed, who is told, and when nobody is woken."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from dicom_qa_node.config.fields import Name, Port, Section

__all__ = ["AlertRule", "Alerts", "Charts", "EmailChannel", "WebhookChannel"]

ClockTime = Annotated[
    str,
    Field(
        pattern=r"^(([01]\d|2[0-3]):[0-5]\d)?$",
        json_schema_extra={"allowed": "time such as 22:00, or empty"},
    ),
]


def _zone_name(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"{value!r} is not a time zone") from error
    return value


class Charts(Section):
    """The control charts of the scanners, and when they tell of a drift."""

    points: int = Field(300, ge=50, le=5000, description="series on one chart")
    baseline_points: int = Field(
        50, ge=20, le=1000, description="series that judge a chart until somebody chooses a period"
    )
    ewma_weight: float = Field(
        0.1, gt=0, le=1, description="lambda of the EWMA; 0.05 to 0.25 are usual (Montgomery, section 9.2)"
    )
    ewma_width: float = Field(
        3.0,
        gt=0,
        le=6,
        description="L of the EWMA; with 3.0 at most 5 % of charts alarm within 500 unchanged series (docs/alerts.md)",
    )
    drift_run: int = Field(
        8, ge=1, le=100, description="series in a row whose EWMA must lie beyond its limits to make a drift alarm"
    )
    least_shift_percent: dict[str, float] = Field(
        default_factory=dict,
        description="least shift that makes a drift alarm, in percent of the baseline, by name of a measurement; * for "
        "all others. Without it 10 for dose, 5 for the rest, 0.1 points for scores (docs/alerts.md)",
    )
    timezone: str = Field(
        "UTC",
        description="time zone of scanners whose images name no offset from UTC (0008,0201), such as Europe/Berlin",
    )

    @field_validator("least_shift_percent")
    @classmethod
    def _shares(cls, value: dict[str, float]) -> dict[str, float]:
        for name, percent in value.items():
            if not 0 <= percent <= 1000:
                raise ValueError(f"{name}: {percent:g} is not between 0 and 1000")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        return _zone_name(value)


class AlertRule(Section):
    """What is worth an alert, and who gets it."""

    name: Name = Field(description="name of the rule, as pages and messages show it")
    about: Literal["grade", "finding", "drift", "phantom", "node"] = Field(
        "grade",
        description="grade or finding of a series; drift of a scanner; a QC phantom that is missing, outside a "
        "tolerance or not analysed; trouble of the node: a failed check, a full disk, a silent scanner, reports "
        "that are not delivered",
    )
    grades: list[Literal["limited", "non-diagnostic"]] = Field(["non-diagnostic"], description="grades (about: grade)")
    findings: list[str] = Field(["*"], description="patterns of finding keys (about: finding); * stands for anything")
    severity: Literal["info", "warning", "error"] = Field(
        "error", description="lowest severity of a finding (about: finding)"
    )
    scanner: str = Field("*", description="pattern of the scanner's name (not for about: node)")
    protocol: str = Field("*", description="pattern of the protocol (not for about: node)")
    channels: list[str] = Field(default_factory=list, description="names of channels; empty: all of them")
    urgent: bool = Field(False, description="goes out at once, in quiet hours too")


class EmailChannel(Section):
    """A mail server that takes messages for some people."""

    name: Name = Field(description="name of the channel")
    host: str = Field(min_length=1, description="mail server")
    port: Port = Field(587, description="TCP port; 587 with starttls, 465 with tls")
    security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="none: readable by everybody on the way; for a server on this machine"
    )
    ca_file: Path | None = Field(
        None, strict=False, description="certificates (PEM) to trust; empty: those of the system"
    )
    username: str = Field("", description="login name; empty: no login")
    password_file: Path | None = Field(None, strict=False, description="file whose first line is the password")
    sender: str = Field(pattern=r"^[^@\s]+@[^@\s]+$", json_schema_extra={"allowed": "mail address"}, description="From")
    recipients: list[str] = Field(min_length=1, description="mail addresses")
    timeout_s: float = Field(20, gt=0, le=120, description="longest wait for an answer")

    @model_validator(mode="after")
    def _no_readable_password(self) -> EmailChannel:
        if self.username and self.security == "none":
            raise ValueError("a password would cross the network readable: set security to starttls or tls")
        if bool(self.username) != (self.password_file is not None):
            raise ValueError("username and password_file go together")
        return self


class WebhookChannel(Section):
    """A program that takes messages by HTTP POST, signed with a secret that both sides know."""

    name: Name = Field(description="name of the channel")
    url: str = Field(
        "",
        pattern=r"^(https?://[^\s/]+\S*)?$",
        json_schema_extra={"allowed": "http or https address, or empty"},
        description="address; one that holds a secret, as those of chat services do, belongs into url_file",
    )
    url_file: Path | None = Field(None, strict=False, description="file whose first line is the address")
    secret_file: Path | None = Field(
        None, strict=False, description="file whose first line is the secret of the HMAC-SHA256 signature"
    )
    template: Path | None = Field(
        None, strict=False, description="Jinja template of the body (JSON); empty: the one that docs/alerts.md shows"
    )
    ca_file: Path | None = Field(None, strict=False, description="certificates (PEM) to trust; empty: the usual ones")
    timeout_s: float = Field(10, gt=0, le=120, description="longest wait for an answer")

    @model_validator(mode="after")
    def _one_address(self) -> WebhookChannel:
        if bool(self.url) == (self.url_file is not None):
            raise ValueError("set either url or url_file")
        return self


class Alerts(Section):
    """Alerts by e-mail and webhook. They name scanner and series, never a patient."""

    enabled: bool = Field(True, description="whether rules are applied at all")
    rules: list[AlertRule] = Field(
        default_factory=list,
        description="what is worth an alert; empty: non-diagnostic series, findings of severity error, drift, "
        "phantoms, trouble",
    )
    email: list[EmailChannel] = Field(default_factory=list, description="channels by e-mail")
    webhook: list[WebhookChannel] = Field(default_factory=list, description="channels by HTTP POST")
    gather_minutes: float = Field(5, ge=0, le=1440, description="alerts of this time go out as one message")
    quiet_from: ClockTime = Field("", description="begin of the hours in which only urgent rules send")
    quiet_until: ClockTime = Field("", description="end of the quiet hours; may lie on the next day")
    quiet_weekends: bool = Field(False, description="Saturdays and Sundays are quiet")
    timezone: str = Field("UTC", description="time zone of the quiet hours, such as Europe/Berlin")
    subject_template: Path | None = Field(None, strict=False, description="Jinja template of the mail's subject")
    body_template: Path | None = Field(None, strict=False, description="Jinja template of the mail's text")
    retry_first_s: float = Field(
        30, gt=0, le=3600, description="wait after the first failed attempt; doubles each time"
    )
    retry_max_s: float = Field(3600, gt=0, le=86400, description="longest wait between two attempts")
    give_up_hours: float = Field(24, gt=0, le=720, description="age at which a message that nobody takes is given up")
    trouble_minutes: float = Field(
        5, ge=0, le=1440, description="trouble of the node that passes within this is not told"
    )
    silent_scanner_hours: float = Field(
        72, ge=0, le=8760, description="a scanner of which nothing was scored for this long is silent; 0: never"
    )
    undelivered_minutes: float = Field(60, gt=0, le=43200, description="age at which an undelivered report is trouble")
    newest_hours: float = Field(
        24, gt=0, le=8760, description="older results make no alerts, such as those of an imported archive"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Alerts:
        names = self.channels()
        if len(set(names)) < len(names):
            raise ValueError("the names of channels must be unique")
        known = set(names)
        for rule in self.rules:
            for missing in set(rule.channels) - known:
                raise ValueError(f"rule {rule.name}: there is no channel {missing!r}")
        if bool(self.quiet_from) != bool(self.quiet_until):
            raise ValueError("quiet_from and quiet_until go together")
        try:
            _zone_name(self.timezone)
        except ValueError as error:
            raise ValueError(f"timezone: {error}") from error
        return self

    def channels(self) -> list[str]:
        """Return the names of the channels."""
        return [channel.name for channel in self.email] + [channel.name for channel in self.webhook]

    def applied(self) -> list[AlertRule]:
        """Return the rules that apply: those of the file, else the built-in ones."""
        return self.rules or list(_BUILT_IN)

    def quiet(self, local: dt.datetime) -> bool:
        """Return whether a local time lies in the quiet hours."""
        if self.quiet_weekends and local.weekday() >= 5:
            return True
        if not self.quiet_from:
            return False
        now = local.strftime("%H:%M")
        if self.quiet_from <= self.quiet_until:
            return self.quiet_from <= now < self.quiet_until
        return now >= self.quiet_from or now < self.quiet_until


_BUILT_IN = (
    AlertRule(name="non-diagnostic", about="grade"),
    AlertRule(name="error-finding", about="finding", severity="error"),
    AlertRule(name="drift", about="drift"),
    AlertRule(name="phantom", about="phantom"),
    AlertRule(name="node-trouble", about="node"),
)
