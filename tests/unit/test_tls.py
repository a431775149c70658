from __future__ import annotations

import datetime as dt
import logging
import ssl

import pytest
from pydantic import ValidationError

from dicom_qa_node.config import ClientTls, Config, ServerTls
from dicom_qa_node.dicom_io.tls import CIPHERS, RenewedContext, call_context, concerns
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.ops.health import HealthSnapshot, Level, assess
from tests.tls_files import Authority


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls") / "hospital")


def config_with(pair, ca, /, **tls):
    server = {"enabled": True, "certificate": pair.certificate, "key": pair.key, "ca": ca} | tls
    return Config.model_validate({"receive": {"tls": server}})


@pytest.mark.parametrize(
    ("tls", "words"),
    [
        ({"enabled": True}, "certificate is missing"),
        ({"enabled": True, "certificate": "a.pem"}, "ca is missing"),
        ({"enabled": True, "certificate": "a.pem", "require_certificate": False, "crl": "c.pem"}, "ca is missing"),
        ({"only": True}, "leaves no port"),
    ],
)
def test_half_a_configuration_is_refused(tls, words):
    with pytest.raises(ValidationError, match=words):
        ServerTls.model_validate(tls)


def test_nothing_old_or_weak_is_offered(hospital):
    pair = hospital.issue("offer")
    server = RenewedContext(config_with(pair, hospital.ca).receive.tls).current()
    for context in (server, call_context(ClientTls(enabled=True, ca=hospital.ca))):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        offered = {cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] == "TLSv1.2"}
        assert offered == set(CIPHERS)
        assert context.options & ssl.OP_NO_RENEGOTIATION
    assert server.verify_mode == ssl.CERT_REQUIRED
    assert server.options & ssl.OP_NO_TICKET


def test_what_is_wrong_with_files_is_said_plainly(hospital, tmp_path):
    pair, other = hospital.issue("first"), hospital.issue("second")
    assert concerns(config_with(pair, hospital.ca)) == []
    (tmp_path / "text.pem").write_text("nothing")
    damaged = hospital.revoke()[:-80] + b"-----END X509 CRL-----\n"
    (tmp_path / "damaged.pem").write_bytes(damaged)
    for tls, words in (
        ({"certificate": tmp_path / "none.pem"}, "none.pem cannot be read: No such file or directory"),
        ({"key": other.key}, f"the key {other.key} is not that of certificate {pair.certificate}"),
        ({"ca": tmp_path / "text.pem"}, "text.pem holds no CA certificates in PEM form"),
        ({"crl": tmp_path / "none.pem"}, "none.pem cannot be read: No such file or directory"),
        ({"crl": tmp_path / "text.pem"}, "text.pem holds no certificate revocation lists in PEM form"),
        ({"crl": tmp_path / "damaged.pem"}, "damaged.pem holds a damaged certificate revocation list"),
    ):
        (found,) = concerns(config_with(pair, hospital.ca, **tls))
        assert words in found
        with pytest.raises(Misconfigured):
            RenewedContext(config_with(pair, hospital.ca, **tls).receive.tls)


def test_open_keys_and_near_ends_are_told_and_degrade_health(hospital):
    open_key = hospital.issue("open", mode=0o644)
    (found,) = concerns(config_with(open_key, hospital.ca))
    assert "every user of this machine can read the private key" in found
    ending = config_with(hospital.issue("ending", ends_days=10), hospital.ca)
    (found,) = concerns(ending)
    assert "replace it in time" in found
    (found,) = concerns(ending, lambda: utc_now() + dt.timedelta(days=11))
    assert "ended on" in found
    report = assess(HealthSnapshot(tls_concerns=(found,)), ending, utc_now())
    assert report.named("tls").level is Level.DEGRADED
    assert found in report.named("tls").detail


def test_an_old_revocation_list_is_told(hospital, tmp_path):
    lists = tmp_path / "lists.pem"
    config = config_with(hospital.issue("listed"), hospital.ca, crl=lists)
    lists.write_bytes(hospital.revoke())
    assert concerns(config) == []
    (found,) = concerns(config, lambda: utc_now() + dt.timedelta(days=8))
    assert f"a revocation list in {lists} ended on" in found


def test_the_log_names_the_file_that_changed(hospital, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    lists, now = tmp_path / "lists.pem", [0.0]
    lists.write_bytes(hospital.revoke())
    pair = hospital.issue("watched")
    renewed = RenewedContext(config_with(pair, hospital.ca, crl=lists).receive.tls, lambda: now[0])
    first = renewed.current()
    lists.write_bytes(hospital.revoke(pair))
    now[0] += 2
    assert renewed.current() is not first
    assert [(record.msg, record.qa_fields) for record in caplog.records] == [
        ("certificate_renewed", {"files": str(lists)})
    ]


def test_a_new_certificate_is_taken_and_a_broken_one_is_not(hospital, caplog):
    pair, following = hospital.issue("changing"), hospital.issue("following")
    now = [0.0]
    renewed = RenewedContext(config_with(pair, hospital.ca).receive.tls, lambda: now[0])
    first = renewed.current()
    pair.certificate.write_text("broken")
    now[0] += 2
    assert renewed.current() is first
    assert [record.msg for record in caplog.records] == ["certificate_not_renewed"]
    pair.certificate.write_bytes(following.certificate.read_bytes())
    pair.key.write_bytes(following.key.read_bytes())
    assert renewed.current() is first
    now[0] += 2
    assert renewed.current() is not first
