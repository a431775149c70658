"""Login by a small OpenID Connect provider on loopback: what lets somebody in, and what does not."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from dicom_qa_node.config import Config, InvalidConfig, parse_config
from dicom_qa_node.domain.accounts import Role
from tests.web_site import HOST, open_site, stranger

SECRET = "client secret"
KEY = RSAKey.generate_key(2048, {"kid": "one"})


class Provider:
    """Discovery, keys and token endpoint; the test changes what it says."""

    def __init__(self) -> None:
        self.claims: dict[str, object] = {}
        self.key, self.algorithm = KEY, "RS256"
        self.challenge = ""
        self.told_issuer: str | None = None
        self.asked: list[dict[str, str]] = []
        handler = type("Handler", (_Handler,), {"provider": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def discovery(self) -> dict[str, str]:
        return {
            "issuer": self.told_issuer or self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
        }

    def id_token(self) -> str:
        claims = {key: value for key, value in self.claims.items() if value is not None}
        return jwt.encode({"alg": self.algorithm, "kid": "one"}, claims, self.key, algorithms=[self.algorithm])


class _Handler(BaseHTTPRequestHandler):
    provider: ClassVar[Provider]

    def do_GET(self) -> None:
        known = {
            "/.well-known/openid-configuration": self.provider.discovery(),
            "/keys": {"keys": [KEY.as_dict(private=False)]},
        }
        self._answer(known.get(self.path))

    def do_POST(self) -> None:
        form = {k: v[0] for k, v in parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()).items()}
        form["authorization"] = self.headers.get("Authorization", "")
        self.provider.asked.append(form)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        proven = base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == self.provider.challenge
        token = {"access_token": "at", "token_type": "Bearer", "id_token": self.provider.id_token()}
        self._answer(
            token if proven and form.get("code") == "good" else {"error": "invalid_grant"}, 200 if proven else 400
        )

    def _answer(self, body: object, status: int = 200) -> None:
        text = json.dumps(body).encode()
        self.send_response(status if body is not None else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def provider():
    provider = Provider()
    yield provider
    provider.server.shutdown()
    provider.server.server_close()


@pytest.fixture
def site(tmp_path, provider):
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    oidc = {
        "issuer": provider.issuer, "client_id": "qa", "client_secret_file": tmp_path / "secret",
        "viewers": ["radiology"], "reviewers": ["physics"], "admins": ["qa-admins"],
    }  # fmt: skip
    site = open_site(tmp_path, oidc=oidc)
    yield site
    site.database.close()


def begin(client, target: str = "/account"):
    page = client.get("/login", params={"next": target}, headers={"accept": "text/html"})
    csrf = re.search(r'name="csrf" value="([^"]+)"', page.text)[1]
    answer = client.post("/login/oidc", data={"csrf": csrf, "next": target})
    assert answer.status_code == 303, answer.text
    return {key: value[0] for key, value in parse_qs(urlsplit(answer.headers["location"]).query).items()}


def good_claims(provider: Provider, sent: dict[str, str], **change: object) -> None:
    now = int(time.time())
    provider.challenge = sent["code_challenge"]
    provider.claims = {
        "iss": provider.issuer, "aud": "qa", "sub": "s-1", "exp": now + 60, "iat": now, "nonce": sent["nonce"],
        "preferred_username": "Petra", "name": "Petra P", "groups": ["other", "physics"], **change,
    }  # fmt: skip


def come_back(client, sent: dict[str, str], code: str = "good"):
    return client.get("/login/oidc/callback", params={"state": sent["state"], "code": code})


def test_login_makes_an_account_with_the_role_of_the_group(site, provider):
    client = stranger(site)
    sent = begin(client)
    assert sent["response_type"] == "code"
    assert sent["client_id"] == "qa"
    assert sent["code_challenge_method"] == "S256"
    assert sent["redirect_uri"] == f"{HOST}/login/oidc/callback"
    assert set(sent["scope"].split()) == {"openid", "profile", "email"}
    good_claims(provider, sent)
    answer = come_back(client, sent)
    assert (answer.status_code, answer.headers["location"]) == (303, "/account")
    assert client.get("/api/v1/me").json() == {
        "name": "petra", "full_name": "Petra P", "role": "reviewer", "permissions": ["review", "view", "view_patient"],
    }  # fmt: skip
    assert base64.b64decode(provider.asked[0]["authorization"].split()[1]).decode().startswith("qa:client")
    assert [row.event for row in site.audit.entries(limit=2)] == ["login.oidc", "account.add"]


def test_role_follows_the_groups_at_the_next_login(site, provider):
    for groups, role in (
        (["physics"], Role.REVIEWER),
        (["qa-admins", "radiology"], Role.ADMIN),
        ("radiology", Role.VIEWER),
    ):
        client = stranger(site)
        sent = begin(client)
        good_claims(provider, sent, groups=groups)
        assert come_back(client, sent).status_code == 303
        assert site.accounts.named("petra").role is role


@pytest.mark.parametrize(
    "change",
    [
        {"groups": ["strangers"]},
        {"groups": None},
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "another"},
        {"iss": "http://evil.example"},
        {"exp": int(time.time()) - 3600},
        {"sub": None},
        {"azp": "another"},
        {"preferred_username": "ada"},
        {"preferred_username": "<script>"},
    ],
)
def test_tokens_that_let_nobody_in(site, provider, change):
    client = stranger(site)
    sent = begin(client)
    good_claims(provider, sent, **change)
    assert come_back(client, sent).status_code == 403
    assert client.get("/account").status_code == 303
    last = site.audit.entries(limit=1)[0]
    assert (last.event, last.outcome.value) == ("login.oidc", "failed")


def test_signature_by_another_key_or_none(site, provider):
    provider.key = RSAKey.generate_key(2048)
    client = stranger(site)
    sent = begin(client)
    good_claims(provider, sent)
    assert come_back(client, sent).status_code == 403
    provider.key = KEY
    client = stranger(site)
    sent = begin(client)
    good_claims(provider, sent)
    _, body, _ = provider.id_token().split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    provider.id_token = lambda: f"{none}.{body}."
    assert come_back(client, sent).status_code == 403


def test_answers_of_another_browser_replayed_or_invented(site, provider):
    client, thief = stranger(site), stranger(site)
    sent = begin(client)
    good_claims(provider, sent)
    thief.get("/login")
    assert come_back(thief, sent).status_code == 403
    assert come_back(client, {"state": "invented"}).status_code == 403
    assert client.get("/login/oidc/callback").status_code == 403
    assert come_back(client, sent).status_code == 303
    assert come_back(client, sent).status_code == 403


def test_wrong_code_and_unproven_challenge(site, provider):
    client = stranger(site)
    sent = begin(client)
    good_claims(provider, sent)
    provider.challenge = "of another login"
    assert come_back(client, sent).status_code == 403
    client = stranger(site)
    sent = begin(client)
    good_claims(provider, sent)
    assert come_back(client, sent, code="bad").status_code == 403


def test_provider_that_is_away_or_another(site, provider):
    client = stranger(site)
    provider.told_issuer = "http://127.0.0.1:1"
    page = client.get("/login", headers={"accept": "text/html"})
    csrf = re.search(r'name="csrf" value="([^"]+)"', page.text)[1]
    assert client.post("/login/oidc", data={"csrf": csrf}).status_code == 403
    provider.server.shutdown()
    provider.server.server_close()
    assert client.post("/login/oidc", data={"csrf": csrf}).status_code == 403


def test_begin_needs_the_form(site):
    assert stranger(site).post("/login/oidc", data={"csrf": "x"}).status_code == 403


def test_disabled_account_stays_out(site, provider):
    client = stranger(site)
    sent = begin(client)
    good_claims(provider, sent)
    come_back(client, sent)
    site.accounts.set_active(site.accounts.named("petra").account_id, False)
    assert client.get("/account").status_code == 303
    sent = begin(client)
    good_claims(provider, sent)
    assert come_back(client, sent).status_code == 403


@pytest.mark.parametrize(
    ("oidc", "words"),
    [
        ("{issuer: 'https://login.example'}", "client_id and client_secret_file"),
        ("{issuer: 'http://login.example', client_id: a, client_secret_file: b, admins: [x]}", "https"),
        ("{issuer: 'https://login.example', client_id: a, client_secret_file: b}", "at least one value"),
    ],
)
def test_configurations_that_cannot_work(oidc, words):
    with pytest.raises(InvalidConfig, match=words):
        parse_config(f"web:\n  oidc: {oidc}\n")


def test_beyond_loopback_needs_tls_a_proxy_or_a_word():
    with pytest.raises(InvalidConfig, match="passwords would cross the network"):
        parse_config("web: {host: 0.0.0.0}")
    for more in ("trusted_proxies: [10.0.0.1]", "allow_plain_http: true", "tls_certificate: a, tls_key: b"):
        assert isinstance(parse_config(f"web: {{host: 0.0.0.0, {more}}}"), Config)
