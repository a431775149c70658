"""The edge of the pages and the API: paths, filters, hosts, prefixes, proxies, oversized bodies, headers, failures."""

from __future__ import annotations

import re

import pytest

from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.web.auth.sign_in import local_path
from tests.web_site import PASSWORD, bearer, log_in, logged_in, open_site, stranger


@pytest.fixture
def site(tmp_path):
    site = open_site(tmp_path)
    yield site
    site.database.close()


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static/....//app.py", "/static//etc/passwd",
     "/static/%00", "/static/..\\app.py", "/static/" + "a" * 5000],
)  # fmt: skip
def test_path_traversal_finds_nothing(site, path):
    answer = logged_in(site).get(path)
    assert answer.status_code in (400, 404)
    assert "import" not in answer.text


@pytest.mark.parametrize(
    "word", ["' OR 1=1 --", "%", "_", "\\", '"; DROP TABLE audit_log; --', "\x00", "é\u202e", "a" * 3000, "\ud800"]
)
@pytest.mark.parametrize("field", ["actor", "event", "ident", "since", "before", "outcome"])
def test_filters_are_values_not_sql(site, word, field):
    client = logged_in(site)
    answer = client.get("/audit", params={field: word.encode("utf-8", "surrogatepass")})
    assert answer.status_code == 200
    if field in ("actor", "event", "ident"):
        assert "No row matches" in answer.text
    assert site.audit.entries()


SCRIPT = '<script>alert("x")</script>'


def test_stored_scripts_are_text(site):
    account = site.accounts.named("vera")
    site.accounts.add("tricky", Role.VIEWER, full_name=SCRIPT)
    site.accounts.add_token(account.account_id, SCRIPT, Role.VIEWER, 1)
    site.audit.record("test", actor=SCRIPT, ident=SCRIPT, detail=SCRIPT, patient_id=SCRIPT)
    client = logged_in(site)
    for path in ("/users", "/audit", f"/audit?actor={SCRIPT}", f"/login?next=/{SCRIPT}", f"/{SCRIPT}"):
        answer = client.get(path)
        assert SCRIPT not in answer.text, path
    assert "&lt;script&gt;" in client.get("/users").text


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "https://evil.example", "/\\evil.example", "\\\\evil", "javascript:alert(1)", "/\t/evil.example",
     "/\n/evil", "", "evil", "///evil"],
)  # fmt: skip
def test_login_leads_nowhere_else(site, target):
    assert local_path(target) == "/"
    answer = log_in(stranger(site), "ada", next=target)
    assert answer.headers["location"] == "/"
    theme = stranger(site).post("/theme", data={"theme": "dark", "next": target})
    assert theme.headers["location"] == "/"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1@evil.example", "127.0.0.1:80:80", "[::1", ""])
def test_foreign_host_names_are_refused(site, host):
    client = logged_in(site)
    answer = client.get("/account", headers={"Host": host})
    assert answer.status_code == 421
    assert "evil" not in answer.text


def test_links_do_not_follow_the_host_header(tmp_path):
    site = open_site(tmp_path, public_url="http://qa.example/quality")
    client = stranger(site)
    assert client.get("/login", headers={"Host": "evil.example"}).status_code == 421
    header = bearer(site)
    made = client.post("/api/v1/accounts", json={"name": "kim", "role": "viewer"}, headers=header).json()
    assert made["link"].startswith("/quality/setup/")
    site.database.close()


def test_oversize_bodies_are_refused(tmp_path):
    site = open_site(tmp_path, max_body_kb=16)
    client = logged_in(site)
    big = "x" * 20_000
    assert client.post("/users", data={"csrf": client.csrf, "full_name": big}).status_code == 413
    header = {**bearer(site), "content-type": "application/json"}

    def chunks():
        for _ in range(20):
            yield b" " * 1000

    assert client.post("/api/v1/accounts", content=chunks(), headers=header).status_code == 413
    assert (
        client.post(
            "/login", content=chunks(), headers={"content-type": "application/x-www-form-urlencoded"}
        ).status_code
        == 413
    )
    site.database.close()


def test_exports_carry_no_formula_and_no_extra_header(site):
    site.audit.record("test", actor="=cmd|' /C calc'!A0", detail="a\r\nSet-Cookie: x=1", ident='"quote", comma')
    client = logged_in(site)
    answer = client.get("/audit.csv?actor=%0d%0aSet-Cookie:%20x=1")
    assert "set-cookie" not in answer.headers
    assert answer.headers["content-disposition"] == 'attachment; filename="audit.csv"'
    text = client.get("/audit.csv").text
    assert "'=cmd" in text
    assert "\r\nSet-Cookie" not in text
    assert '"""quote"", comma"' in text


def test_headers_of_every_answer(site):
    client = logged_in(site)
    for path in ("/login", "/account", "/nowhere", "/static/site.css", "/api/v1/me", "/healthz", "/metrics"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "strict-transport-security" not in headers
    assert client.get("/account").headers["cache-control"] == "no-store"


def test_templates_have_no_inline_script_style_or_handler():
    from dicom_qa_node.web.templating import STATIC

    templates = sorted((STATIC.parent / "templates").rglob("*.html"))
    assert len(templates) >= 7
    wrong = re.compile(
        r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|javascript:|\|\s*safe\b|https?://(?!www\.w3\.org)"
    )
    found = [(path.name, match[0]) for path in templates for match in wrong.finditer(path.read_text())]
    assert found == []


def test_cookies_over_https_are_bound_to_the_host(tmp_path):
    site = open_site(tmp_path, trusted_proxies=["10.0.0.1"], host="0.0.0.0")
    client = stranger(site, **{"x-forwarded-proto": "https", "x-forwarded-for": "192.0.2.7"})
    client._transport.client = ("10.0.0.1", 1)
    page = client.get("/login")
    assert "__Host-qa_door=" in page.headers["set-cookie"]
    assert "max-age=" in page.headers["strict-transport-security"]
    csrf = re.search(r'name="csrf" value="([^"]+)"', page.text)[1]
    cookie = page.headers["set-cookie"].split(";")[0]
    form = {"csrf": csrf, "name": "ada", "password": PASSWORD}
    answer = client.post("/login", data=form, headers={"Cookie": cookie})
    words = {part.strip().lower() for part in answer.headers.get_list("set-cookie")[-1].split(";")}
    assert {"httponly", "secure", "path=/", "samesite=lax"} <= words
    assert any(word.startswith("__host-qa_session=") for word in words)
    assert site.audit.entries()[0].address == "192.0.2.7"
    site.database.close()


def test_only_trusted_proxies_speak_for_others(tmp_path):
    site = open_site(tmp_path, trusted_proxies=["10.0.0.0/8"])
    headers = {"x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "https", "x-forwarded-prefix": "/evil"}
    client = stranger(site, **headers)
    client._transport.client = ("198.51.100.9", 1)
    page = client.get("/login")
    assert "__Host-" not in page.headers["set-cookie"]
    assert "/evil" not in page.text
    log_in(client, "ada", "wrong")
    assert site.audit.entries()[0].address == "198.51.100.9"
    spoofed = stranger(site, **{**headers, "x-forwarded-for": "6.6.6.6, 192.0.2.9, 10.0.0.2"})
    spoofed._transport.client = ("10.0.0.1", 1)
    assert "/evil/login" in spoofed.get("/login").text
    spoofed.post("/evil/login", data={"name": "x", "csrf": "x"}, headers={"Cookie": "__Secure-qa_door=y"})
    assert site.audit.entries()[0].address == "192.0.2.9", "the last that none of our proxies has added"
    site.database.close()


def test_several_header_lines_are_one_list(tmp_path):
    site = open_site(tmp_path, trusted_proxies=["10.0.0.0/8"])
    client = stranger(site)
    client._transport.client = ("10.0.0.1", 1)
    lines = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.9")]
    client.post("/login", data={"name": "x", "csrf": "x"}, headers=[*lines, ("Cookie", "qa_door=y")])
    assert site.audit.entries()[0].address == "192.0.2.9"
    site.database.close()


@pytest.mark.parametrize("stripped", [True, False])
def test_pages_under_a_prefix(tmp_path, stripped):
    site = open_site(tmp_path, public_url="http://127.0.0.1/quality")
    client = stranger(site, accept="text/html")
    at = "" if stripped else "/quality"
    assert client.get(f"{at}/account").headers["location"] == "/quality/login?next=%2Faccount"
    page = client.get(f"{at}/login")
    assert 'action="/quality/login"' in page.text
    assert 'href="/quality/static/site.css' in page.text
    assert "Path=/quality/" in page.headers["set-cookie"]
    cookie = page.headers["set-cookie"].split(";")[0]
    csrf = re.search(r'name="csrf" value="([^"]+)"', page.text)[1]
    form = {"csrf": csrf, "name": "ada", "password": PASSWORD, "next": "/users"}
    answer = client.post(f"{at}/login", data=form, headers={"Cookie": cookie})
    assert answer.headers["location"] == "/quality/users"
    session = {"Cookie": answer.headers.get_list("set-cookie")[-1].split(";")[0]}
    assert client.get(f"{at}/users", headers=session).status_code == 200
    assert 'aria-current="page">Users' in client.get(f"{at}/users", headers=session).text
    assert client.get(f"{at}/api/v1/me", headers=session).json()["name"] == "ada"
    assert client.get("/healthz").status_code in (200, 503)
    site.database.close()


def test_failures_show_no_details(site, monkeypatch):
    def broken():
        raise RuntimeError("patient Doe^Jane")

    monkeypatch.setattr(site.accounts, "all", broken)
    client = logged_in(site)
    answer = client.get("/users")
    assert answer.status_code == 500
    assert "Doe" not in answer.text
    assert "Traceback" not in answer.text
    answer = stranger(site).get("/api/v1/accounts", headers=bearer(site))
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Doe" not in answer.text
