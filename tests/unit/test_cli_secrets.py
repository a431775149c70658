"""What commands print is safe to pass on: no password, no address of a webhook."""

from __future__ import annotations

import pytest

from dicom_qa_node.config.loader import parse_config
from dicom_qa_node.config.redaction import redacted, redacted_address
from dicom_qa_node.domain.errors import Misconfigured


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://qa:s3cr:et@db.example/qa", "postgresql://qa:(hidden)@db.example/qa"),
        ("postgresql://qa@db.example/qa?password=x", "postgresql://qa@db.example/qa?(hidden)"),
        ("postgresql://qa@db.example/qa", "postgresql://qa@db.example/qa"),
        ("sqlite:////var/lib/qa.db", "sqlite:////var/lib/qa.db"),
    ],
)
def test_password_of_the_database_is_hidden(address, shown):
    assert redacted_address(address) == shown


WEBHOOK = "https://chat.example/services/T0/SECRET?sig=SECRET"


def test_shown_configuration_holds_no_address_of_a_webhook():
    config = parse_config(f"alerts: {{webhook: [{{name: chat, url: '{WEBHOOK}'}}]}}")
    shown = str(redacted(config))
    assert "SECRET" not in shown
    assert "https://chat.example/(hidden)" in shown


def test_problem_with_a_webhook_does_not_quote_its_address():
    with pytest.raises(Misconfigured) as failed:
        parse_config(f"alerts: {{webhook: [{{name: chat, url: 'ftp{WEBHOOK}'}}]}}")
    assert "alerts.webhook[0].url" in str(failed.value)
    assert "SECRET" not in str(failed.value)


@pytest.mark.parametrize("addresses", ["", f"url: '{WEBHOOK}', url_file: /etc/hook"])
def test_webhook_has_one_address(addresses):
    with pytest.raises(Misconfigured, match="either url or url_file"):
        parse_config(f"alerts: {{webhook: [{{name: chat, {addresses}}}]}}")
