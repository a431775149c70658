"""What alert messages say: the built-in templates, those of the site, rendered in Jinja's sandbox.

A template sees rule, subject, text, scanner and the series' address, and nothing of a patient: the tables behind it
hold none.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dicom_qa_node.config import Config
from dicom_qa_node.errors import Permanent
from dicom_qa_node.safe_text import escaped_json, visible, visible_lines
from dicom_qa_node.store.alerts import Alert, Message

__all__ = ["BODY", "SUBJECT", "WEBHOOK", "json_body", "mail_words", "words_of"]

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


def words_of(config: Config, message: Message) -> dict[str, Any]:
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


def mail_words(config: Config, message: Message) -> tuple[str, str]:
    """Return subject (one line) and text of a mail."""
    words, settings = words_of(config, message), config.alerts
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
    text = _render(template, WEBHOOK, words_of(config, message))
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
