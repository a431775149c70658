"""The pages and the API against those who should not be there: no session, wrong role, forged, guessed, locked out."""

from __future__ import annotations

import datetime as dt
import re

import pytest
import sqlalchemy as sa
from starlette.routing import Route

from dicom_qa_node.accounts.accounts import hash_of
from dicom_qa_node.accounts.audit import AuditFilter
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.web import app as web_app
from tests.web_site import NAMES, PASSWORD, bearer, csrf_of, log_in, logged_in, open_site, stranger

OPEN = {"/login", "/login/oidc", "/login/oidc/callback", "/setup/{secret}", "/theme"}


class Clock:
    def __init__(self) -> None:
        self.now = utc_now()

    def __call__(self) -> dt.datetime:
        return self.now

    def advance(self, **kinds: float) -> None:
        self.now += dt.timedelta(**kinds)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def site(tmp_path, clock):
    site = open_site(tmp_path, clock)
    yield site
    site.database.close()


def page_routes(site) -> list[Route]:
    routes = [route for view in web_app._VIEWS for route in view.routes(site) if isinstance(route, Route)]
    return [route for route in routes if route.path not in OPEN]


def filled(route: Route) -> str:
    return re.sub(r"{\w+(:\w+)?}", "1", route.path)


def test_without_a_session_every_page_leads_to_the_login(site):
    client = stranger(site, accept="text/html")
    routes = page_routes(site)
    assert len(routes) >= 10
    for route in routes:
        for method in sorted(route.methods - {"HEAD"}):
            answer = client.request(method, filled(route))
            if method == "GET":
                assert answer.status_code == 303, (method, route.path)
                assert answer.headers["location"].startswith("/login"), route.path
            else:
                assert answer.status_code == 401, (method, route.path)


def test_without_a_token_every_call_of_the_api_is_refused(site):
    client = stranger(site)
    schema = client.get("/api/v1/openapi.json").json()
    calls = [(method, path) for path, methods in schema["paths"].items() for method in methods]
    assert len(calls) >= 9
    for method, path in calls:
        answer = client.request(method.upper(), "/api/v1" + re.sub(r"{\w+}", "1", path), json={})
        assert answer.status_code in (401, 422), (method, path)
        assert answer.headers["content-type"] == "application/problem+json"
        if method == "get":
            assert answer.status_code == 401, path


@pytest.mark.parametrize("role", [Role.VIEWER, Role.REVIEWER])
@pytest.mark.parametrize("path", ["/users", "/audit", "/audit.csv", "/audit.json"])
def test_pages_of_administrators_are_refused_to_others(site, role, path):
    answer = logged_in(site, role).get(path)
    assert answer.status_code == 403
    refused = site.audit.entries(AuditFilter(event="access", outcome="refused"))
    assert (refused[0].actor, refused[0].ident) == (NAMES[role], path)


@pytest.mark.parametrize("role", [Role.VIEWER, Role.REVIEWER])
def test_api_of_administrators_is_refused_to_others(site, role):
    client, header = stranger(site), bearer(site, role)
    for path in ("/api/v1/accounts", "/api/v1/audit"):
        assert client.get(path, headers=header).status_code == 403
    body = {"name": "mallory", "role": "admin"}
    assert client.post("/api/v1/accounts", json=body, headers=header).status_code == 403
    assert client.post("/api/v1/tokens", json={"label": "x", "role": "admin"}, headers=header).status_code == 403
    assert site.accounts.named("mallory") is None


def test_a_token_has_the_lower_of_its_role_and_its_owners(site):
    ada = site.accounts.named("ada")
    secret, _ = site.accounts.add_token(ada.account_id, "low", Role.VIEWER, 1)
    client, header = stranger(site), {"Authorization": f"Bearer {secret}"}
    assert client.get("/api/v1/me", headers=header).json()["role"] == "viewer"
    high = bearer(site, Role.ADMIN)
    site.accounts.add("otto", Role.ADMIN)
    site.accounts.set_role(ada.account_id, Role.VIEWER)
    assert client.get("/api/v1/accounts", headers=high).status_code == 403


@pytest.mark.parametrize("forged", ["", "x", "qan_" + "A" * 43, "null", "\xff", "' OR 1=1 --"])
def test_forged_tokens_and_cookies(site, forged):
    client = stranger(site)
    header = {"Authorization": f"Bearer {forged}".encode("latin-1")}
    assert client.get("/api/v1/me", headers=header).status_code == 401
    assert client.get("/account", headers=header).status_code == 401
    cookie = {"Cookie": f"qa_session={forged}".encode("latin-1")}
    assert client.get("/account", headers=cookie).status_code == 303


def test_expired_and_revoked_tokens(site, clock):
    ada, client = site.accounts.named("ada"), stranger(site)
    secret, token = site.accounts.add_token(ada.account_id, "short", Role.VIEWER, 1)
    header = {"Authorization": f"Bearer {secret}"}
    assert client.get("/api/v1/me", headers=header).status_code == 200
    clock.advance(days=1, seconds=1)
    assert client.get("/api/v1/me", headers=header).status_code == 401
    secret, token = site.accounts.add_token(ada.account_id, "gone", Role.VIEWER, 1)
    header = {"Authorization": f"Bearer {secret}"}
    assert site.accounts.revoke_token(token.token_id)
    assert client.get("/api/v1/me", headers=header).status_code == 401


def test_the_database_holds_no_secret(site):
    client = logged_in(site)
    cookie = client.cookies["qa_session"]
    token = bearer(site)["Authorization"].removeprefix("Bearer ")
    link = site.accounts.invite(None, 1)
    with site.database.read() as connection:
        tables = connection.execute(sa.text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars().all()
        everything = "".join(str(connection.execute(sa.text(f"SELECT * FROM {name}")).all()) for name in tables)
    for secret in (cookie, token, link, PASSWORD):
        assert secret not in everything
    assert hash_of(cookie) in everything


def test_sessions_end_by_idleness_age_logout_and_deactivation(site, clock):
    client = logged_in(site)
    for _ in range(30):
        clock.advance(minutes=23)
        assert client.get("/account").status_code == 200
    clock.advance(minutes=31)
    assert client.get("/account").status_code == 303
    client = logged_in(site)
    clock.advance(hours=12, seconds=1)
    assert client.get("/account").status_code == 303
    client = logged_in(site)
    kept = client.cookies["qa_session"]
    client.post("/logout", data={"csrf": client.csrf})
    assert client.get("/account", headers={"Cookie": f"qa_session={kept}"}).status_code == 303
    viewer = logged_in(site, Role.VIEWER)
    header = bearer(site, Role.VIEWER)
    site.accounts.set_active(site.accounts.named("vera").account_id, False)
    assert viewer.get("/account").status_code == 303
    assert stranger(site).get("/api/v1/me", headers=header).status_code == 401
    assert log_in(stranger(site), "vera").status_code == 401


def test_a_page_that_refreshes_itself_keeps_nobody_logged_in(site, clock):
    client = logged_in(site)
    for _ in range(5):
        clock.advance(minutes=7)
        client.get("/account", headers={"X-Background": "1"})
    assert client.get("/account").status_code == 303


def test_login_gives_a_new_session_and_ends_the_one_before(site):
    client = logged_in(site)
    before = client.cookies["qa_session"]
    client.cookies.set("qa_session", "chosen by an attacker", domain="127.0.0.1", path="/")
    other = stranger(site)
    other.cookies.set("qa_session", "chosen", domain="127.0.0.1", path="/")
    assert log_in(other, "vera").status_code == 303
    assert other.get("/account", headers={"Cookie": "qa_session=chosen"}).status_code == 303
    again = stranger(site, accept="text/html")
    again.cookies.set("qa_session", before)
    door = stranger(site, accept="text/html")
    log_in(door, "ada")
    door.cookies.clear()
    page = door.get("/login", headers={"Cookie": ""})
    csrf = re.search(r'name="csrf" value="([^"]+)"', page.text)[1]
    cookies = f"qa_session={before}; qa_door={door.cookies['qa_door']}"
    answer = door.post("/login", data={"csrf": csrf, "name": "ada", "password": PASSWORD}, headers={"Cookie": cookies})
    assert answer.status_code == 303
    assert again.get("/account").status_code == 303, "the earlier session has ended"


def test_changing_the_password_ends_other_sessions(site):
    here, elsewhere = logged_in(site), logged_in(site)
    form = {"csrf": here.csrf, "old": PASSWORD, "new": "heavy velvet lantern", "again": "heavy velvet lantern"}
    assert here.post("/account/password", data={**form, "old": "wrong"}).status_code == 422
    assert here.post("/account/password", data=form).status_code == 303
    assert here.get("/account").status_code == 200
    assert elsewhere.get("/account").status_code == 303
    assert log_in(stranger(site), "ada").status_code == 401
    assert log_in(stranger(site), "ada", "heavy velvet lantern").status_code == 303


@pytest.mark.parametrize("token", [None, "", "wrong", "of another"])
def test_changes_without_the_token_against_forgery_are_refused(site, token):
    client, other = logged_in(site), logged_in(site)
    data = {"name": "mallory", "role": "admin"}
    if token is not None:
        data["csrf"] = csrf_of(other) if token == "of another" else token
    assert client.post("/users", data=data).status_code == 403
    header = {} if token is None else {"X-CSRF-Token": data["csrf"]}
    assert client.post("/api/v1/accounts", json={"name": "mallory", "role": "admin"}, headers=header).status_code == 403
    assert site.accounts.named("mallory") is None
    right = {"X-CSRF-Token": client.csrf}
    assert client.post("/api/v1/accounts", json={"name": "mia", "role": "viewer"}, headers=right).status_code == 201


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_changes_from_other_sites_are_refused(site, headers):
    client = logged_in(site)
    data = {"name": "mallory", "role": "admin", "csrf": client.csrf}
    assert client.post("/users", data=data, headers=headers).status_code == 403
    page = stranger(site)
    csrf = re.search(r'name="csrf" value="([^"]+)"', page.get("/login").text)[1]
    login = {"csrf": csrf, "name": "ada", "password": PASSWORD}
    assert page.post("/login", data=login, headers=headers).status_code == 403
    assert client.post("/users", data=data, headers={"Origin": "http://127.0.0.1"}).status_code == 201


def test_login_needs_its_form(site):
    client = stranger(site)
    assert client.post("/login", data={"name": "ada", "password": PASSWORD}).status_code == 403
    client.get("/login")
    assert client.post("/login", data={"name": "ada", "password": PASSWORD, "csrf": "guess"}).status_code == 403


def test_lockout_grows_and_hits_nobody_else(tmp_path, clock):
    site = open_site(tmp_path, clock, login_per_minute=10_000)
    attacker = stranger(site, **{"accept": "text/html"})
    for _ in range(5):
        assert log_in(attacker, "vera", "wrong").status_code == 401
    assert log_in(attacker, "vera", "wrong").status_code == 401
    waits = []
    for _ in range(12):
        answer = log_in(attacker, "vera")
        assert answer.status_code == 429, "even the right password waits"
        waits.append(int(answer.headers["Retry-After"]))
        clock.advance(seconds=waits[-1])
        assert log_in(attacker, "vera", "wrong").status_code == 401
    assert waits[:5] == [1, 2, 4, 8, 16]
    assert max(waits) <= 15 * 60
    assert log_in(attacker, "rudi").status_code == 303, "another account from the same address comes in"
    elsewhere = stranger(site)
    elsewhere._transport.client = ("10.1.1.1", 1)
    assert log_in(elsewhere, "vera").status_code == 303, "the locked account comes in from another address"
    site.database.close()


def test_guesses_from_many_addresses_delay_only_unknown_ones(site, clock):
    assert log_in(stranger(site), "vera").status_code == 303
    for number in range(52):
        guess = stranger(site)
        guess._transport.client = (f"10.0.0.{number}", 1)
        log_in(guess, "vera", "wrong")
    late = stranger(site)
    late._transport.client = ("10.0.1.1", 1)
    assert log_in(late, "vera").status_code == 429
    assert log_in(stranger(site), "vera").status_code == 303, "from where vera was logged in lately"
    clock.advance(seconds=61)
    assert log_in(late, "vera").status_code == 303


def test_unknown_names_cost_the_same_work(site, monkeypatch):
    asked = []
    hasher = type(site.passwords._hasher)
    real = hasher.verify
    monkeypatch.setattr(hasher, "verify", lambda self, kept, word: asked.append(kept) or real(self, kept, word))
    for name in ("ada", "nobody", "x" * 300):
        answer = log_in(stranger(site), name, "wrong")
        assert (answer.status_code, "wrong" in answer.text) == (401, True)
    assert len(asked) == 3
    assert len({kept.rsplit("$", 2)[0] for kept in asked}) == 1, "same parameters"


def test_what_was_typed_as_a_name_is_not_kept(site):
    log_in(stranger(site), "my secret password")
    assert site.audit.entries()[0].ident == "(unknown)"
    with site.database.read() as connection:
        assert "my secret" not in str(connection.execute(sa.text("SELECT * FROM audit_log")).all())


def test_login_rate_of_an_address(tmp_path):
    site = open_site(tmp_path, login_per_minute=3)
    client = stranger(site)
    codes = [log_in(client, f"name{number}", "wrong").status_code for number in range(5)]
    assert codes == [401, 401, 401, 429, 429]
    site.database.close()


def test_api_rate(tmp_path):
    site = open_site(tmp_path, api_per_minute=5)
    client, header = stranger(site), bearer(site)
    codes = [client.get("/api/v1/me", headers=header).status_code for _ in range(7)]
    assert codes == [200] * 5 + [429] * 2
    assert int(client.get("/api/v1/me", headers=header).headers["Retry-After"]) >= 1
    assert client.get("/api/v1/me", headers=bearer(site, Role.VIEWER)).status_code == 200
    site.database.close()


def test_the_last_administrator_stays(site):
    client, ada = logged_in(site), site.accounts.named("ada").account_id
    assert client.post(f"/users/{ada}/role", data={"csrf": client.csrf, "role": "viewer"}).status_code == 409
    assert client.post(f"/users/{ada}/active", data={"csrf": client.csrf, "active": "no"}).status_code == 409
    assert (
        stranger(site).patch(f"/api/v1/accounts/{ada}", json={"active": False}, headers=bearer(site)).status_code == 409
    )
    assert site.accounts.named("ada").active
