"""Login by an OpenID Connect provider: authorization code with PKCE (OpenID Connect Core 1.0 §3.1, RFC 7636).

The role comes from a claim of the ID token at every login; who has no listed value gets no entrance. An account of the
provider is known by issuer and subject, never by its name: a local account of the same name stays what it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import OAuth2Client
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.accounts.accounts import AccountRow, NameTaken, new_secret
from dicom_qa_node.accounts.audit import Outcome
from dicom_qa_node.accounts.sessions import OidcLogin, OidcLogins
from dicom_qa_node.config import Oidc
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.log import log_event
from dicom_qa_node.web.access import address_of, note, path_of
from dicom_qa_node.web.auth.cookies import PRE_SESSION, read_cookie
from dicom_qa_node.web.auth.csrf import FIELD, require_own_page, require_token
from dicom_qa_node.web.auth.sign_in import begin_session, local_path
from dicom_qa_node.web.site import Site, site_of

__all__ = ["role_of", "routes"]

_LOGGER = logging.getLogger(__name__)
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]
_LEEWAY_S = 60
_LARGEST = 1_000_000


@dataclass(frozen=True, slots=True)
class _Refused(Exception):
    """The provider's answer does not let anybody in; ``why`` holds no personal data."""

    why: str


def routes(site: Site) -> list[BaseRoute]:
    """Return the routes, none without a provider."""
    if not site.config.web.oidc.enabled:
        return []
    return [
        Route("/login/oidc", _begin, methods=["POST"]),
        Route("/login/oidc/callback", _callback, methods=["GET"]),
    ]


async def _begin(request: Request) -> Response:
    form = await request.form(max_fields=10, max_files=0)
    require_own_page(request)
    require_token(read_cookie(request, PRE_SESSION), str(form.get(FIELD, "")))
    return await run_in_threadpool(_send_away, request, local_path(str(form.get("next", "/"))))


async def _callback(request: Request) -> Response:
    return await run_in_threadpool(_come_back, request)


def _send_away(request: Request, target: str) -> Response:
    site = site_of(request)
    if site.login_rate.wait_s(address_of(request)) > 0:
        raise HTTPException(429)
    login = OidcLogin(nonce=new_secret(), verifier=new_secret() + new_secret(), target=target)
    # The state carries what stands in this browser's cookie, so that another browser cannot bring the answer.
    state = f"{new_secret()}.{read_cookie(request, PRE_SESSION)}"
    try:
        with _client(site, request) as client:
            address, _ = client.create_authorization_url(
                _endpoint(_discover(client, site), "authorization_endpoint"),
                state=state,
                nonce=login.nonce,
                code_challenge=create_s256_code_challenge(login.verifier),
                code_challenge_method="S256",
            )
    except (_Refused, httpx2.HTTPError) as error:
        return _failed(request, error)
    OidcLogins(site.database, site.clock).begin(state, login)
    return RedirectResponse(address, 303)


def _come_back(request: Request) -> Response:
    site, state = site_of(request), request.query_params.get("state", "")
    door = read_cookie(request, PRE_SESSION)
    if not door or not state.endswith(f".{door}"):
        return _failed(request, _Refused("the answer belongs to another browser"))
    login = OidcLogins(site.database, site.clock).take(state)
    code = request.query_params.get("code", "")
    if login is None or not code:
        return _failed(request, _Refused("the provider refused" if login else "the login has expired"))
    try:
        claims = _claims(request, login, code)
        row = _account(site, claims)
    except (_Refused, httpx2.HTTPError, AuthlibBaseError, JoseError, NameTaken) as error:
        return _failed(request, error)
    return begin_session(request, RedirectResponse(path_of(request, login.target), 303), row, "login.oidc")


def _failed(request: Request, error: Exception) -> Response:
    why = error.why if isinstance(error, _Refused) else type(error).__name__
    log_event(_LOGGER, logging.WARNING, "oidc_login_failed", reason=why, address=address_of(request))
    note(request, "login.oidc", outcome=Outcome.FAILED, detail=why)
    raise HTTPException(403, f"The login provider did not let you in: {why}.") from error


def _client(site: Site, request: Request) -> OAuth2Client:
    oidc = site.config.web.oidc
    return OAuth2Client(
        client_id=oidc.client_id,
        client_secret=_secret(oidc),
        scope=" ".join(oidc.scopes),
        redirect_uri=_own_address(site, request),
        timeout=oidc.timeout_s,
        follow_redirects=False,
    )


def _secret(oidc: Oidc) -> str:
    assert oidc.client_secret_file is not None
    try:
        return oidc.client_secret_file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise Misconfigured(f"web.oidc.client_secret_file cannot be read: {error.strerror}") from error


def _own_address(site: Site, request: Request) -> str:
    public = site.config.web.public_url.rstrip("/")
    root = public or f"{request.url.scheme}://{request.headers['host']}{path_of(request, '')}"
    return f"{root}/login/oidc/callback"


def _json(response: httpx2.Response) -> Mapping[str, Any]:
    response.raise_for_status()
    if len(response.content) > _LARGEST:
        raise _Refused("the provider's answer is too large")
    try:
        found = response.json()
    except ValueError as error:
        raise _Refused("the provider's answer is not JSON") from error
    if not isinstance(found, dict):
        raise _Refused("the provider's answer is not an object")
    return found


def _discover(client: OAuth2Client, site: Site) -> Mapping[str, Any]:
    issuer = site.config.web.oidc.issuer
    address = issuer.rstrip("/") + "/.well-known/openid-configuration"
    found = _json(client.request("GET", address, withhold_token=True))
    if found.get("issuer") != issuer:
        raise _Refused("the provider calls itself by another issuer")
    return found


def _endpoint(found: Mapping[str, Any], name: str) -> str:
    address = found.get(name)
    if not isinstance(address, str) or not address.startswith(
        ("https://", "http://127.", "http://localhost", "http://[::1]")
    ):
        raise _Refused(f"the provider names no {name}")
    return address


def _claims(request: Request, login: OidcLogin, code: str) -> Mapping[str, Any]:
    site = site_of(request)
    oidc = site.config.web.oidc
    with _client(site, request) as client:
        found = _discover(client, site)
        token = client.fetch_token(_endpoint(found, "token_endpoint"), code=code, code_verifier=login.verifier)
        keys = KeySet.import_key_set(_json(client.request("GET", _endpoint(found, "jwks_uri"), withhold_token=True)))  # type: ignore[arg-type]
    if not isinstance(token.get("id_token"), str):
        raise _Refused("the provider sent no ID token")
    decoded = jwt.decode(token["id_token"], keys, algorithms=_ALGORITHMS)
    options = {"iss": {"essential": True, "value": oidc.issuer}, "aud": {"essential": True, "value": oidc.client_id}}
    params = {"nonce": login.nonce, "client_id": oidc.client_id, "access_token": token.get("access_token")}
    claims = CodeIDToken(decoded.claims, decoded.header, options=options, params=params)
    claims.validate(now=int(site.clock().timestamp()), leeway=_LEEWAY_S)
    return decoded.claims


def role_of(oidc: Oidc, claims: Mapping[str, Any]) -> Role | None:
    """Return the highest role that the values of the role claim give, None for no entrance."""
    held = claims.get(oidc.role_claim)
    values = {str(value) for value in held} if isinstance(held, Sequence) and not isinstance(held, str) else {str(held)}
    order = ((Role.ADMIN, oidc.admins), (Role.REVIEWER, oidc.reviewers), (Role.VIEWER, oidc.viewers))
    return next((role for role, wanted in order if values & set(wanted)), None)


def _account(site: Site, claims: Mapping[str, Any]) -> AccountRow:
    oidc, accounts, subject = site.config.web.oidc, site.accounts, str(claims["sub"])
    role = role_of(oidc, claims)
    if role is None:
        raise _Refused("your groups there give no role here")
    row = accounts.of_subject(oidc.issuer, subject)
    if row is None:
        name = str(claims.get(oidc.name_claim) or subject)
        full_name = str(claims.get("name") or "")
        row = accounts.add(name, role, full_name, issuer=oidc.issuer, subject=subject)
        site.audit.record("account.add", actor=row.name, kind="account", ident=row.name, detail=f"oidc {role.value}")
    if not row.active:
        raise _Refused("your account here is not active")
    if row.role is not role:
        accounts.follow_provider(row.account_id, role)
        site.audit.record("account.role", actor=row.name, kind="account", ident=row.name, detail=f"oidc {role.value}")
    return row
