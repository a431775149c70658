"""Sends alert messages from the database through their channels: e-mail by SMTP, webhooks by HTTP POST.

One layer retries: a message that fails goes back with a longer and longer wait, and is given up after a time. It is
sent at least once: a process that dies between sending and marking sends it again under the same idempotency key
(``Message-ID`` of a mail, ``Idempotency-Key`` of a webhook).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import logging
import random
import smtplib
import ssl
from collections.abc import Callable
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path

import httpx2

from dicom_qa_node import __version__
from dicom_qa_node.config import Config, EmailChannel, WebhookChannel
from dicom_qa_node.errors import Misconfigured, NodeError, Permanent, Transient
from dicom_qa_node.log import log_event
from dicom_qa_node.ops.alert_words import json_body, mail_words
from dicom_qa_node.records import utc_now
from dicom_qa_node.store import Alerts, Database
from dicom_qa_node.store.alerts import Message

__all__ = ["SIGNATURE", "AlertCourier", "signature_of"]

_LOGGER = logging.getLogger(__name__)
SIGNATURE = "X-Signature"
_AT_ONCE = 20


class AlertCourier:
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
        wait = min(settings.retry_first_s * 2 ** min(message.attempts - 1, 20), settings.retry_max_s)
        self._alerts.retry_later(message, str(error), wait * random.uniform(0.8, 1.2))


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
    mail = _mail(config, channel, message, now)
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
    subject, text = mail_words(config, message)
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
