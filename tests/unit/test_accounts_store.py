"""Accounts, sessions and the audit log on both databases."""

from __future__ import annotations

import datetime as dt
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from dicom_qa_node.accounts.accounts import Accounts, NameTaken
from dicom_qa_node.accounts.audit import Audit, AuditFilter, Outcome
from dicom_qa_node.accounts.sessions import OidcLogin, OidcLogins, Sessions, Throttle, ThrottleLimit
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Permanent


@pytest.fixture
def database(any_database):
    return any_database


def test_names_are_kept_in_lower_case_and_once(database):
    accounts = Accounts(database)
    assert accounts.add(" Ada ", Role.ADMIN).name == "ada"
    assert accounts.named("ADA").role is Role.ADMIN
    for name in ("ada", "ADA", "", "-x", "a b", "x" * 65, "ü"):
        with pytest.raises(NameTaken):
            accounts.add(name, Role.VIEWER)
    accounts.add("x", Role.VIEWER, issuer="i", subject="1")
    with pytest.raises(NameTaken):
        accounts.add("y", Role.VIEWER, issuer="i", subject="1")
    assert [row.name for row in accounts.all()] == ["ada", "x"]


def test_first_administrator_is_made_once_by_two_at_once(database):
    accounts = Accounts(database)
    secret, made = accounts.invite(None, 1), []
    barrier = threading.Barrier(2)

    def accept(name: str) -> None:
        barrier.wait()
        made.append(accounts.accept_first(secret, name, "", "hash"))

    threads = [threading.Thread(target=accept, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(row is not None for row in made) == 1
    assert len(accounts.all()) == 1


def test_last_administrator_cannot_go(database):
    accounts = Accounts(database)
    first, other = accounts.add("a", Role.ADMIN), accounts.add("v", Role.VIEWER)
    accounts.set_active(other.account_id, False)
    for change in (
        lambda: accounts.set_active(first.account_id, False),
        lambda: accounts.set_role(first.account_id, Role.REVIEWER),
    ):
        with pytest.raises(Permanent):
            change()
    accounts.add("b", Role.ADMIN)
    accounts.set_active(first.account_id, False)
    assert not accounts.named("a").active


def test_sessions_end(database):
    now = [utc_now()]
    accounts = Accounts(database, lambda: now[0])
    sessions = Sessions(database, dt.timedelta(minutes=30), dt.timedelta(hours=12), lambda: now[0])
    account = accounts.add("a", Role.VIEWER).account_id
    secret = sessions.begin(account, "10.0.0.1", "browser")
    assert sessions.find(secret).account.name == "a"
    assert sessions.count() == {account: 1}
    assert sessions.known(account, "10.0.0.1")
    assert not sessions.known(account, "10.0.0.2")
    now[0] += dt.timedelta(minutes=29)
    assert sessions.find(secret) is not None
    now[0] += dt.timedelta(minutes=29)
    assert sessions.find(secret, touch=False) is not None
    now[0] += dt.timedelta(minutes=2)
    assert sessions.find(secret) is None
    accounts.set_password(account, "new")
    assert sessions.find(sessions.begin(account, "", "")) is not None


LIMIT = ThrottleLimit(free=2, longest=dt.timedelta(seconds=10))


def test_waits_double_and_are_forgotten(database):
    now = [utc_now()]
    throttle = Throttle(database, lambda: now[0])
    waits = []
    for _ in range(8):
        assert throttle.attempt({"k": LIMIT}) == 0
        waits.append(throttle.attempt({"k": LIMIT}) if len(waits) >= 2 else 0)
        now[0] += dt.timedelta(seconds=waits[-1])
    assert waits == [0, 0, 1, 2, 4, 8, 10, 10]
    now[0] += dt.timedelta(days=2)
    assert [throttle.attempt({"k": LIMIT}) for _ in range(2)] == [0, 0]


def test_attempts_side_by_side_count_together(database):
    throttle = Throttle(database)
    with ThreadPoolExecutor(16) as pool:
        waits = list(pool.map(lambda _: throttle.attempt({"pair": LIMIT, "address": LIMIT}), range(16)))
    assert waits.count(0) == LIMIT.free + 1


def test_attempt_with_the_right_password_is_no_failure(database):
    throttle = Throttle(database)
    for _ in range(20):
        assert throttle.attempt({"address": LIMIT}) == 0
        throttle.returned({"address": LIMIT})


def test_login_at_a_provider_is_taken_once(database):
    logins = OidcLogins(database)
    logins.begin("state", OidcLogin("n", "v", "/log"))
    assert logins.take("other") is None
    assert logins.take("state") == OidcLogin("n", "v", "/log")
    assert logins.take("state") is None


def test_audit_filters_and_pages(database):
    audit = Audit(database)
    for number in range(25):
        outcome = Outcome.FAILED if number % 5 == 0 else Outcome.SUCCESS
        audit.record(
            "login" if number % 2 else "series.view", actor=f"u{number % 3}", ident=str(number), outcome=outcome
        )
    assert len(audit.entries(AuditFilter(event="series"))) == 13
    assert audit.entries(AuditFilter(event="%")) == []
    assert {row.ident for row in audit.entries(AuditFilter(outcome="failed", actor="u0"))} == {"0", "15"}
    first = audit.entries(limit=10)
    rest = audit.entries(limit=100, before=first[-1].audit_id)
    assert [row.ident for row in first + rest] == [str(number) for number in range(24, -1, -1)]
    assert [row.ident for row in audit.every(AuditFilter(event="login"))] == [str(n) for n in range(23, 0, -2)]
    assert audit.events() == ["login", "series.view"]


def test_control_characters_do_not_reach_the_log(database):
    audit = Audit(database)
    audit.record("x", actor="a\x00b\r\nc", detail="d" * 5000)
    (row,) = audit.entries()
    assert row.actor == "a b  c"
    assert len(row.detail) == 2000


@pytest.mark.parametrize(
    "statement", ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"]
)
def test_audit_log_is_append_only(database, statement):
    Audit(database).record("x", actor="a")
    if statement.startswith("TRUNCATE") and database.is_sqlite:
        pytest.skip("SQLite has no TRUNCATE")
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), database.write() as connection:
        connection.execute(sa.text(statement))
    assert [row.actor for row in Audit(database).entries()] == ["a"]


@pytest.fixture
def owner(database):
    return Accounts(database).add("owner", Role.ADMIN, "").account_id


def test_token_that_a_token_made_has_no_more_rights_and_no_longer_life(database, owner):
    now = [utc_now()]
    accounts = Accounts(database, lambda: now[0])
    _, parent = accounts.add_token(owner, "short", Role.VIEWER, 0.01)
    secret, child = accounts.add_token(owner, "long", Role.ADMIN, 3660, parent)
    assert child.role is Role.VIEWER
    assert child.expires_at == parent.expires_at
    assert child.parent_id == parent.token_id
    assert accounts.of_token(secret) is not None
    now[0] += dt.timedelta(days=0.02)
    assert accounts.of_token(secret) is None
    with pytest.raises(Permanent, match="ended"):
        accounts.add_token(owner, "late", Role.VIEWER, 1, parent)


def test_end_of_a_token_ends_all_that_it_made(database, owner):
    accounts = Accounts(database)
    _, parent = accounts.add_token(owner, "parent", Role.ADMIN, 1)
    _, child = accounts.add_token(owner, "child", Role.ADMIN, 1, parent)
    grandchild, _ = accounts.add_token(owner, "grandchild", Role.VIEWER, 1, child)
    other, _ = accounts.add_token(owner, "other", Role.VIEWER, 1)
    assert accounts.revoke_token(parent.token_id, owner)
    assert accounts.of_token(grandchild) is None
    assert accounts.of_token(other) is not None
