"""Alert messages: their templates, and their delivery by e-mail (SMTP) and webhook (HTTP POST)."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import logging
import smtplib
import ssl
from collections.abc import Callable, Mapping
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx2
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dicom_qa_node import __version__
from dicom_qa_node.charts.alerts import Alert, Alerts, Message
from dicom_qa_node.config import Config, EmailChannel, WebhookChannel
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.backoff import backoff_s
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Misconfigured, NodeError, Permanent, Transient
from dicom_qa_node.log import log_event
from dicom_qa_node.safe_text import escaped_json, visible, visible_lines

__all__ = [
    "BODY",
    "SIGNATURE",
    "SUBJECT",
    "WEBHOOK",
    "AlertDelivery",
    "json_body",
    "mail_text",
    "send_prepared",
    "signature_of",
    "template_values",
]

SUBJECT = """\
[{{ node }}] {% if test %}test message{% elif alerts | length == 1 %}{{ alerts[0].scanner or "node" }}: \
{{ alerts[0].text }}{% else %}{{ alerts | length }} alerts{% endif %}
"""
BODY = """\
{% if test %}This is a test message of the image quality node {{ node }}. Nothing is wrong.
{% endif %}{% for alert in alerts[:50] %}
{{ alert.at }}  {{ alert.scanner or "node" }}: {{ alert.text }} [rule {{ alert.rule }}]
{% if alert.link %}  {{ alert.link }}
{% endif %}{% endfor %}{% if alerts | length > 50 %}
and {{ alerts | length - 50 }} more.
{% endif %}
{{ page }}
"""
WEBHOOK = """\
{"id": {{ id | tojson }}, "node": {{ node | tojson }}, "test": {{ test | tojson }}, "page": {{ page | tojson }},
 "alerts": {{ alerts | tojson }}}
"""


def template_values(config: Config, message: Message) -> dict[str, Any]:
    """Return what a template may use."""
    web = config.web
    root = web.public_url.rstrip("/") or f"http{'s' if web.https else ''}://{web.host}:{web.port}"
    return {
        "id": message.idempotency_key,
        "node": config.ae_title,
        "test": message.test,
        "page": f"{root}/alerts",
        "alerts": [_alert_words(alert, root) for alert in message.alerts],
    }


def mail_text(config: Config, message: Message) -> tuple[str, str]:
    """Return subject (one line) and text of a mail."""
    words, settings = template_values(config, message), config.alerts
    subject = _render(settings.subject_template, SUBJECT, words)
    text = _render(settings.body_template, BODY, words)
    return visible(" ".join(subject.split()))[:200], visible_lines(text)


def json_body(config: Config, template: Path | None, message: Message) -> bytes:
    """Return the body of a webhook.

    Raises
    ------
    Permanent
        The site's template cannot be rendered, or what it gives is not JSON.
    """
    text = _render(template, WEBHOOK, template_values(config, message))
    try:
        return escaped_json(json.dumps(json.loads(text), ensure_ascii=False)).encode()
    except ValueError as error:
        raise Permanent(f"the template {template} does not give JSON: {error}") from error


def _alert_words(alert: Alert, root: str) -> dict[str, Any]:
    link = ""
    if alert.series_instance_uid:
        link = f"{root}/series/{alert.series_instance_uid}"
    elif alert.scanner_id:
        link = f"{root}/scanners/{alert.scanner_id}"
    return {
        "number": alert.alert_id,
        "rule": alert.rule,
        "about": alert.subject.value,
        "text": alert.text,
        "scanner": alert.scanner,
        "series": alert.series_instance_uid or "",
        "link": link,
        "at": alert.created_at.astimezone(dt.UTC).isoformat(timespec="seconds"),
    }


def _render(path: Path | None, built_in: str, words: Mapping[str, Any]) -> str:
    # A template is a file of the operator; the sandbox keeps a careless one from reaching into the process.
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True)
    try:
        text = built_in if path is None else path.read_text(encoding="utf-8")
        return environment.from_string(text).render(words)
    except (OSError, UnicodeDecodeError) as error:
        raise Permanent(f"the template {path} cannot be read: {error}") from error
    except (TemplateError, TypeError, ValueError) as error:
        raise Permanent(f"the template {path} cannot be rendered: {error}") from error


_LOGGER = logging.getLogger(__name__)
SIGNATURE = "X-Signature"
_AT_ONCE = 20


class AlertDelivery:
    """Sends what is due; ``clock`` returns the current UTC time."""

    def __init__(self, config: Config, database: Database, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._config, self._clock = config, clock
        channels = [*(c.timeout_s for c in config.alerts.email), *(c.timeout_s for c in config.alerts.webhook)]
        longest = max(channels, default=20.0)
        # SMTP takes several answers; the lease must outlast them all.
        self._alerts = Alerts(database, lease_s=max(120.0, 8 * longest), clock=clock)

    def send_due(self, _now: dt.datetime | None = None) -> int:
        """Send the messages that are due; return how many were claimed. One that fails does not stop the others."""
        for number in range(_AT_ONCE):
            message = self._alerts.claim()
            if message is None:
                return number
            self._send(message)
        return _AT_ONCE

    def _send(self, message: Message) -> None:
        try:
            answer = self._through(message)
        except NodeError as error:
            self._failed(message, error)
        else:
            self._alerts.sent(message, answer)
            log_event(_LOGGER, logging.INFO, "alert_sent", channel=message.channel, alerts=len(message.alerts))

    def _through(self, message: Message) -> str:
        settings = self._config.alerts
        for email in settings.email:
            if email.name == message.channel:
                return send_mail(self._config, email, message, self._clock())
        for webhook in settings.webhook:
            if webhook.name == message.channel:
                return post(self._config, webhook, message, self._clock())
        raise Permanent(f"there is no channel {message.channel!r} any more")

    def _failed(self, message: Message, error: NodeError) -> None:
        settings, now = self._config.alerts, self._clock()
        old = now - message.created_at > dt.timedelta(hours=settings.give_up_hours)
        log_event(
            _LOGGER, logging.WARNING, "alert_not_sent", channel=message.channel, attempt=message.attempts,
            reason=str(error),
        )  # fmt: skip
        if isinstance(error, Permanent) or old:
            self._alerts.give_up(message, str(error))
            return
        wait_s = backoff_s(message.attempts, settings.retry_first_s, settings.retry_max_s)
        self._alerts.retry_later(message, str(error), wait_s)


def send_mail(config: Config, channel: EmailChannel, message: Message, now: dt.datetime) -> str:
    """Send one mail; return the server's words.

    Raises
    ------
    Transient
        The server cannot be reached or says "later" (4xx, RFC 5321 4.2.1).
    Permanent
        The server refuses the message, or a template is wrong.
    Misconfigured
        The password cannot be read, or the certificate is not trusted.
    """
    return send_prepared(channel, _mail(config, channel, message, now))


def send_prepared(channel: EmailChannel, mail: EmailMessage) -> str:
    """Send a mail through the server of a channel; return its words. Raises as `send_mail` does."""
    try:
        with _connect(channel) as server:
            if channel.username and channel.password_file is not None:
                server.login(channel.username, _first_line(channel.password_file))
            refused = server.send_message(mail)
    except smtplib.SMTPRecipientsRefused as error:
        raise _worse([code for code, _ in error.recipients.values()], channel) from error
    except smtplib.SMTPResponseException as error:
        raise _worse([error.smtp_code], channel) from error
    except ssl.SSLError as error:
        raise Misconfigured(f"{channel.host}: the connection is not secure: {error}") from error
    except (OSError, smtplib.SMTPException) as error:
        raise Transient(f"{channel.host}:{channel.port} does not take mail: {type(error).__name__}") from error
    return f"taken by {channel.host}" + (f", but not for {len(refused)} of the recipients" if refused else "")


def post(config: Config, channel: WebhookChannel, message: Message, now: dt.datetime) -> str:
    """Post one message; return the answer. Raises as `send_mail` does; 408, 425, 429 and 5xx are "later"."""
    body = json_body(config, channel.template, message)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"dicom-qa-node/{__version__}",
        "Idempotency-Key": message.idempotency_key,
    }
    if channel.secret_file is not None:
        headers[SIGNATURE] = signature_of(_first_line(channel.secret_file), body, now)
    address = _address(channel)
    place = httpx2.URL(address).host
    try:
        verify = ssl.create_default_context(cafile=channel.ca_file)
        with httpx2.Client(timeout=channel.timeout_s, verify=verify, trust_env=False, follow_redirects=False) as client:
            answer = client.post(address, content=body, headers=headers)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Transient(f"{place} does not answer: {type(error).__name__}") from error
    except OSError as error:
        raise Misconfigured(f"the certificates in {channel.ca_file} cannot be read") from error
    if answer.is_success:
        return f"{place} answered {answer.status_code}"
    words = f"{place} answered {answer.status_code}"
    if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
        raise Transient(words)
    raise Permanent(words)


def signature_of(secret: str, body: bytes, now: dt.datetime) -> str:
    """Return ``t=SECONDS,v1=HEX``: HMAC-SHA256 over ``SECONDS.`` and the body, so that an old message shows its age."""
    stamp = str(int(now.timestamp()))
    digest = hmac.new(secret.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"t={stamp},v1={digest}"


def _mail(config: Config, channel: EmailChannel, message: Message, now: dt.datetime) -> EmailMessage:
    subject, text = mail_text(config, message)
    mail = EmailMessage()
    mail["Subject"] = subject
    mail["From"] = channel.sender
    mail["To"] = ", ".join(channel.recipients)
    mail["Date"] = format_datetime(now)
    domain = Address(addr_spec=channel.sender).domain
    mail["Message-ID"] = f"<{message.idempotency_key}@{domain}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(text)
    return mail


def _connect(channel: EmailChannel) -> smtplib.SMTP:
    context = ssl.create_default_context(cafile=channel.ca_file)
    if channel.security == "tls":
        return smtplib.SMTP_SSL(channel.host, channel.port, timeout=channel.timeout_s, context=context)
    server = smtplib.SMTP(channel.host, channel.port, timeout=channel.timeout_s)
    if channel.security == "starttls":
        try:
            server.starttls(context=context)
        except (OSError, smtplib.SMTPException):
            server.close()
            raise
    return server


def _worse(codes: list[int], channel: EmailChannel) -> NodeError:
    words = f"{channel.host} refuses the message ({', '.join(map(str, sorted(set(codes))))})"
    return Permanent(words) if any(code >= 500 for code in codes) else Transient(words)


def _address(channel: WebhookChannel) -> str:
    """Return where to post; no error quotes it, since the address may hold a secret."""
    if channel.url_file is None:
        return channel.url
    address = _first_line(channel.url_file)
    try:
        usable = httpx2.URL(address).scheme in ("http", "https") and bool(httpx2.URL(address).host)
    except httpx2.InvalidURL:
        usable = False
    if not usable:
        raise Misconfigured(f"the first line of {channel.url_file} is not an http or https address")
    return address


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} cannot be read: {error}") from error
