"""Alerts: noticed once; gathered, held back in quiet hours, sent, retried, given up, sent again after a kill."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import json
import logging
import ssl

import pytest

from dicom_qa_node.charts.alerts import Alerts, AlertSubject, MessageState, NewAlert, Send
from dicom_qa_node.config import Config, parse_config
from dicom_qa_node.config.loader import InvalidConfig
from dicom_qa_node.db import tables as t
from dicom_qa_node.ops.alert_delivery import SIGNATURE, AlertDelivery, signature_of
from dicom_qa_node.ops.alert_evaluation import AlertEvaluator, NodeAlerts, quiet_until, update_charts
from dicom_qa_node.ops.health import Check, HealthReport, Level
from tests.mail_server import Hook, MailServer
from tests.tls_files import Authority
from tests.unit.test_store_scanners import add

NOW = dt.datetime(2026, 3, 4, 12, tzinfo=dt.UTC)
PATIENT = ("Doe", "Jane", "PID-1")


class Clock:
    """A time that tests move."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> dt.datetime:
        return self.now

    def pass_(self, **spent: float) -> None:
        self.now += dt.timedelta(**spent)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def database(any_database):
    return any_database


@pytest.fixture
def mail():
    server = MailServer()
    yield server
    server.close()


@pytest.fixture
def hook():
    server = Hook()
    yield server
    server.close()


def config_for(tmp_path, mail=None, hook=None, **more) -> Config:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\nsecond line\n")
    channels = {}
    if mail:
        channels["email"] = [
            {"name": "mail", "host": "127.0.0.1", "port": mail.port, "security": "none",
             "sender": "qa@hospital.example", "recipients": ["physics@hospital.example"]}
        ]  # fmt: skip
    if hook:
        channels["webhook"] = [{"name": "hook", "url": hook.url, "secret_file": secret}]
    return Config.model_validate(
        {
            "database_url": f"sqlite:///{tmp_path}/q.db",
            "spool_dir": tmp_path,
            "web": {"public_url": "https://qa.hospital.example/quality"},
            "alerts": {**channels, **more},
        }
    )


def an_alert(occasion="a", *channels, at=NOW, urgent=False):
    return NewAlert(
        occasion, "r", AlertSubject.NODE, f"text {occasion}", sends=tuple(Send(c, at, urgent) for c in channels)
    )


def test_a_bad_series_reaches_mail_and_webhook_without_its_patient(tmp_path, database, mail, hook, clock, caplog):
    caplog.set_level(logging.DEBUG)
    config = config_for(tmp_path, mail, hook)
    add(database, 1, 0.7, at=NOW)
    with database.write() as connection:
        connection.execute(t.results.update().values(grade="non-diagnostic"))
    run = update_charts(config, database, AlertEvaluator(config, clock))
    run(NOW)
    run(NOW)
    delivery_worker = AlertDelivery(config, database, clock)
    assert delivery_worker.send_due() == 0, "gathered for five minutes"
    clock.pass_(minutes=5)
    assert delivery_worker.send_due() == 2
    assert delivery_worker.send_due() == 0
    (letter,) = mail.mails
    assert letter["Subject"] == "[DICOMQA] CT1: non-diagnostic, score 0.70 (CT, Chest)"
    assert letter["To"] == "physics@hospital.example"
    assert "https://qa.hospital.example/quality/series/1.2.1" in letter.get_content()
    (posted,) = hook.posted
    body = json.loads(posted.body)
    assert [alert["scanner"] for alert in body["alerts"]] == ["CT1"]
    assert posted.headers["idempotency-key"] == body["id"]
    stamp, digest = (part.partition("=")[2] for part in posted.headers[SIGNATURE.lower()].split(","))
    wanted = hmac.new(b"s3cret", stamp.encode() + b"." + posted.body, hashlib.sha256).hexdigest()
    assert digest == wanted
    assert int(stamp) == int(clock().timestamp())
    everything = letter.as_string() + posted.body.decode() + caplog.text + repr(Alerts(database).history())
    assert not [word for word in PATIENT if word in everything]
    assert [m.state for m in Alerts(database).messages()] == [MessageState.SENT] * 2


def test_alerts_of_one_window_make_one_message_and_urgent_ones_their_own(database, clock):
    alerts = Alerts(database, clock=clock)
    later = NOW + dt.timedelta(minutes=5)
    alerts.add([an_alert("a", "mail", at=later), an_alert("b", "mail", at=later), an_alert("a", "mail", at=later)])
    alerts.add([an_alert("c", "mail", urgent=True), an_alert("d", "hook", at=later)])
    urgent = alerts.claim()
    assert [alert.text for alert in urgent.alerts] == ["text c"]
    assert alerts.sent(urgent, "ok")
    assert alerts.claim() is None
    clock.pass_(minutes=6)
    found = [alerts.claim(), alerts.claim()]
    assert sorted([alert.text for alert in message.alerts] for message in found) == [["text a", "text b"], ["text d"]]
    alerts.add([an_alert("e", "mail", at=later)])
    assert [a.text for a in alerts.claim().alerts] == ["text e"], "a message on its way takes no more"


def test_a_message_is_retried_with_growing_waits_and_then_given_up(tmp_path, database, mail, clock):
    config = config_for(tmp_path, mail, retry_first_s=30.0, retry_max_s=100.0, give_up_hours=1.0)
    mail.refuse = "451 later"
    alerts, delivery_worker = Alerts(database, clock=clock), AlertDelivery(config, database, clock)
    alerts.add([an_alert("a", "mail")])
    waits = []
    while alerts.messages()[0].state is not MessageState.FAILED:
        assert delivery_worker.send_due() == 1
        message = alerts.messages()[0]
        waits.append((message.not_before - clock()).total_seconds())
        clock.now = max(clock.now, message.not_before)
        assert len(waits) < 200
    assert 22.5 <= waits[0] <= 37.5
    assert 45 <= waits[1] <= 75
    assert max(waits) <= 100
    assert "451" in alerts.messages()[0].last_answer
    assert clock() - NOW >= dt.timedelta(hours=1)


def test_what_the_server_refuses_for_good_is_not_tried_again(tmp_path, database, mail, hook, clock):
    config = config_for(tmp_path, mail, hook)
    mail.refuse, hook.status = "550 no", 400
    alerts = Alerts(database, clock=clock)
    alerts.add([an_alert("a", "mail", "hook"), an_alert("b", "gone")])
    assert AlertDelivery(config, database, clock).send_due() == 3
    assert [m.state for m in alerts.messages()] == [MessageState.FAILED] * 3
    answers = " ".join(m.last_answer for m in alerts.messages())
    assert "550" in answers
    assert "400" in answers
    assert "no channel 'gone'" in answers
    assert "hidden" not in answers, "the address of a webhook may hold a secret"


def test_a_receiver_that_is_down_is_tried_again(tmp_path, database, hook, clock):
    config = config_for(tmp_path, hook=hook)
    hook.status = 503
    alerts, delivery_worker = Alerts(database, clock=clock), AlertDelivery(config, database, clock)
    alerts.add([an_alert("a", "hook")])
    delivery_worker.send_due()
    assert alerts.messages()[0].state is MessageState.PENDING
    hook.status = 200
    clock.pass_(hours=1)
    delivery_worker.send_due()
    assert alerts.messages()[0].state is MessageState.SENT
    assert len({posted.headers["idempotency-key"] for posted in hook.posted}) == 1


def test_a_kill_between_sending_and_marking_sends_again_under_the_same_key(tmp_path, database, hook, clock):
    config = config_for(tmp_path, hook=hook)
    alerts = Alerts(database, clock=clock)
    alerts.add([an_alert("a", "hook")])
    killed = AlertDelivery(config, database, clock)
    killed._alerts.sent = lambda *_: None  # the process ends here
    killed.send_due()
    assert AlertDelivery(config, database, clock).send_due() == 0, "the lease holds"
    clock.pass_(minutes=10)
    assert AlertDelivery(config, database, clock).send_due() == 1
    first, second = hook.posted
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert alerts.messages()[0].state is MessageState.SENT


def test_the_test_button_sends_a_test(tmp_path, database, mail, clock):
    config = config_for(tmp_path, mail)
    Alerts(database, clock=clock).queue_test("mail")
    AlertDelivery(config, database, clock).send_due()
    assert mail.mails[0]["Subject"] == "[DICOMQA] test message"


@pytest.mark.parametrize(
    ("now", "due"),
    [
        ("2026-03-04T12:00", "2026-03-04T12:00"),
        ("2026-03-04T22:30", "2026-03-05T06:00"),
        ("2026-03-05T03:00", "2026-03-05T06:00"),
        ("2026-03-06T23:00", "2026-03-09T06:00"),
        ("2026-03-07T12:00", "2026-03-09T06:00"),
    ],
)
def test_quiet_hours_and_weekends_hold_messages_back(tmp_path, now, due):
    settings = config_for(tmp_path, quiet_from="22:00", quiet_until="06:00", quiet_weekends=True, timezone="Asia/Tokyo")
    tokyo = dt.timezone(dt.timedelta(hours=9))
    found = quiet_until(settings.alerts, dt.datetime.fromisoformat(now).replace(tzinfo=tokyo))
    assert found == dt.datetime.fromisoformat(due).replace(tzinfo=tokyo)


def test_an_urgent_rule_speaks_at_night(tmp_path, mail):
    rules = [{"name": "loud", "urgent": True}, {"name": "calm"}]
    config = config_for(tmp_path, mail, rules=rules, quiet_from="00:00", quiet_until="23:59")
    judge = AlertEvaluator(config, lambda: NOW)
    loud, calm = (judge.sends(rule) for rule in config.alerts.rules)
    assert loud[0].not_before == NOW
    assert calm[0].not_before > NOW + dt.timedelta(hours=6)


def test_old_results_and_other_scanners_make_no_alert(tmp_path, database, clock):
    rules = [{"name": "one", "about": "grade", "grades": ["limited"], "scanner": "ct1*", "protocol": "Ch*"}]
    config = config_for(tmp_path, rules=rules)
    add(database, 1, 2.0, at=NOW - dt.timedelta(days=3))
    add(database, 2, 2.0, at=NOW, station="CT9", serial="S9")
    add(database, 3, 2.0, at=NOW)
    add(database, 4, 2.0, at=NOW, protocol="Abdomen")
    update_charts(config, database, AlertEvaluator(config, clock))(NOW)
    assert [alert.series_instance_uid for alert in Alerts(database).history()] == ["1.2.3"]


def test_trouble_is_told_once_when_it_lasts_and_ends(tmp_path, database, clock):
    config = config_for(tmp_path, trouble_minutes=5.0)
    checks = [Check("disk", Level.FAILED, "12 MB free")]

    def health():
        return HealthReport(Level.FAILED, tuple(checks), clock())

    troubles = NodeAlerts(config, database, health, AlertEvaluator(config, clock), clock, lambda: clock().timestamp())
    alerts = Alerts(database, clock=clock)
    assert troubles.look() == 0
    clock.pass_(minutes=6)
    assert troubles.look() == 1
    assert troubles.look() == 0
    assert alerts.history()[0].text == "disk failed: 12 MB free"
    checks.clear()
    troubles.look()
    assert alerts.history()[0].ended_at == clock()
    checks.append(Check("disk", Level.FAILED, "11 MB free"))
    troubles.look()
    clock.pass_(minutes=6)
    assert troubles.look() == 1
    assert len(alerts.history()) == 2


def test_a_scanner_that_used_to_send_is_missed(tmp_path, database, clock):
    config = config_for(tmp_path, trouble_minutes=0.0, silent_scanner_hours=48.0)
    for number in range(25):
        add(database, number, 3.0, at=NOW - dt.timedelta(hours=number))
    add(database, 99, 3.0, at=NOW - dt.timedelta(days=5), station="ONCE", serial="ONCE")
    judge = AlertEvaluator(config, clock)
    update_charts(config, database, judge)(NOW)
    troubles = NodeAlerts(config, database, lambda: HealthReport(Level.OK, (), clock()), judge, clock)
    assert troubles.look() == 0
    clock.pass_(hours=49)
    assert troubles.look() == 1
    assert "nothing of CT1 was scored since 2026-03-04 12:00 UTC" in Alerts(database).history()[0].text


def test_acknowledged_once_with_name_and_time(database, clock):
    alerts = Alerts(database, clock=clock)
    (number,) = alerts.add([an_alert("a")])
    assert alerts.count_unacknowledged() == 1
    assert alerts.acknowledge(number, by="rudi", note="looked at it")
    assert not alerts.acknowledge(number, by="vera")
    found = alerts.alert(number)
    assert (found.acknowledged_by, found.acknowledged_at, found.note) == ("rudi", NOW, "looked at it")
    assert alerts.unacknowledged() == []
    alerts.add([an_alert("b"), an_alert("c")])
    assert alerts.acknowledge_all(by="ada", up_to=2) == 1
    assert alerts.count_unacknowledged() == 1


def test_a_template_of_the_site_is_used_and_cannot_reach_out(tmp_path, database, mail, clock):
    subject = tmp_path / "subject.txt"
    subject.write_text("{{ alerts | length }} for\n{{ node }}")
    config = config_for(tmp_path, mail, subject_template=subject)
    alerts, delivery_worker = Alerts(database, clock=clock), AlertDelivery(config, database, clock)
    alerts.add([an_alert("a", "mail")])
    delivery_worker.send_due()
    assert mail.mails[0]["Subject"] == "1 for DICOMQA"
    subject.write_text("{{ node.__class__.__mro__[1].__subclasses__() }}")
    alerts.add([an_alert("b", "mail")])
    delivery_worker.send_due()
    assert alerts.messages()[0].state is MessageState.FAILED
    assert "cannot be rendered" in alerts.messages()[0].last_answer
    assert len(mail.mails) == 1


def test_a_text_cannot_forge_a_header(tmp_path, database, mail, clock):
    config = config_for(tmp_path, mail)
    bad = NewAlert("x", "r", AlertSubject.GRADE, "a\r\nBcc: all@x", scanner="CT\n1", sends=(Send("mail", NOW),))
    Alerts(database, clock=clock).add([bad])
    AlertDelivery(config, database, clock).send_due()
    assert mail.mails[0]["Bcc"] is None
    assert mail.mails[0]["Subject"] == "[DICOMQA] CT 1: a Bcc: all@x"


def test_signature_changes_with_time_body_and_secret():
    one = signature_of("a", b"x", NOW)
    assert len({one, signature_of("b", b"x", NOW), signature_of("a", b"y", NOW)}) == 3
    assert one.startswith(f"t={int(NOW.timestamp())},v1=")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("alerts: {quiet_from: '22:00'}", "go together"),
        ("alerts: {timezone: Mars/Olympus}", "not a time zone"),
        ("alerts: {rules: [{name: a, channels: [x]}]}", "no channel 'x'"),
        ("alerts: {quiet_from: '25:00', quiet_until: '06:00'}", "time such as"),
        (
            "alerts: {email: [{name: a, host: h, security: none, username: u, password_file: /p, sender: a@b, "
            "recipients: [c@d]}]}",
            "readable",
        ),
    ],
)
def test_impossible_settings_are_refused_with_words(text, words):
    with pytest.raises(InvalidConfig, match=words):
        parse_config(text)


def test_mail_goes_over_starttls_with_a_login_and_only_to_a_trusted_server(tmp_path, database, clock):
    ours, others = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    pair = ours.issue("mail", hosts=("127.0.0.1",))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    server = MailServer(context)
    password = tmp_path / "password"
    password.write_text("pass word\n")
    channel = {
        "name": "mail", "host": "127.0.0.1", "port": server.port, "security": "starttls", "ca_file": ours.ca,
        "username": "qa", "password_file": password, "sender": "a@b.example", "recipients": ["c@d.example"],
    }  # fmt: skip
    alerts = Alerts(database, clock=clock)
    try:
        for ca_file, state in ((ours.ca, MessageState.SENT), (others.ca, MessageState.PENDING)):
            config = config_for(tmp_path, email=[{**channel, "ca_file": ca_file}])
            alerts.queue_test("mail")
            AlertDelivery(config, database, clock).send_due()
            assert alerts.messages()[0].state is state
        assert "not secure" in alerts.messages()[0].last_answer
        assert len(server.mails) == len(server.logins) == 1
        assert base64.b64decode(server.logins[0].split()[2]) == b"\0qa\0pass word"
    finally:
        server.close()
